"""Tasks, finished tasks, events, outbox, request ids, step journal, queues, and the relay's lane leases.

How the tables are cut:

* `tasks` has every task that has not ended, one row each with all there is to it: what it was created with, its state and
  lease, and its first events. A task's whole life so costs one insert, one update and one move, and the table stays as small as
  the work at hand. Its key starts with the task, because a worker of the mesh names a task without its tenant, and because new
  rows then always go to the right edge of the index. A heartbeat changes no indexed column, so it is a HOT update; the fill
  factor leaves room for it.
* `finished_tasks` has what has ended and is never updated.
* `task_events` has only the events that a row has no room for (see services.scheduler.storage.event_log).
* `outbox` has a row for each commit and lane with the exact bytes for Kafka; it lives until Kafka has acknowledged it.
* Rows that one transaction always writes together have no foreign keys between them: each would cost an index probe a task.
"""

from __future__ import annotations

from alembic import op

from services.common.db.migrations import create_schema_and_roles, enable_tenant_rls, grant

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "scheduler"

TABLES = """
CREATE TABLE scheduler.queues (
  tenant_id text NOT NULL DEFAULT '*',
  queue     text NOT NULL,
  priority  smallint NOT NULL,
  PRIMARY KEY (tenant_id, queue)
);
COMMENT ON COLUMN scheduler.queues.tenant_id IS '* for the queues that every tenant has';
INSERT INTO scheduler.queues (queue, priority) VALUES ('research', 10), ('code', 5), ('default', 5), ('analysis', 1);

CREATE TABLE scheduler.tasks (
  tenant_id         text NOT NULL,
  task_id           uuid NOT NULL,
  position          bigint GENERATED ALWAYS AS IDENTITY,
  create_time       timestamptz NOT NULL,
  available_at      timestamptz NOT NULL,
  start_time        timestamptz,
  deadline          timestamptz,
  lease_expires     timestamptz,
  state             smallint NOT NULL,
  shard             smallint NOT NULL,
  queue_priority    smallint NOT NULL,
  priority          smallint NOT NULL,
  max_attempts      smallint NOT NULL,
  attempt           integer NOT NULL DEFAULT 0,
  timeout_ms        integer NOT NULL,
  next_event_number integer NOT NULL,
  log_events        integer NOT NULL,
  progress          real NOT NULL DEFAULT 0,
  has_children      boolean NOT NULL DEFAULT false,
  has_steps         boolean NOT NULL DEFAULT false,
  parent_task_id    uuid,
  queue             text NOT NULL,
  kind              text NOT NULL,
  traceparent       text NOT NULL,
  worker_id         text,
  spec              bytea NOT NULL,
  context           bytea,
  log               bytea NOT NULL,
  PRIMARY KEY (task_id, tenant_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000);
COMMENT ON COLUMN scheduler.tasks.state IS 'TaskState: 1 pending, 2 running';
COMMENT ON COLUMN scheduler.tasks.position IS 'first in, first out within a priority';
COMMENT ON COLUMN scheduler.tasks.shard IS 'partition of Kafka, murmur2(task_id) mod 16';
COMMENT ON COLUMN scheduler.tasks.deadline IS 'first start + timeout; past it the task fails with TIMEOUT';
COMMENT ON COLUMN scheduler.tasks.spec IS 'guildmesh.scheduler.v1.Task as created, without context, serialized';
COMMENT ON COLUMN scheduler.tasks.context IS 'google.protobuf.Struct, serialized';
COMMENT ON COLUMN scheduler.tasks.log IS 'events 1..log_events, see services.scheduler.storage.event_log';
-- What a lease takes next, for each kind.
CREATE INDEX tasks_pending ON scheduler.tasks (kind, queue_priority DESC, priority DESC, position) WHERE state = 1;
-- What the sweeper looks at: every started task.
CREATE INDEX tasks_started ON scheduler.tasks (deadline) WHERE deadline IS NOT NULL;
-- What a cascade walks.
CREATE INDEX tasks_children ON scheduler.tasks (tenant_id, parent_task_id, task_id) WHERE parent_task_id IS NOT NULL;

CREATE TABLE scheduler.finished_tasks (
  tenant_id         text NOT NULL,
  task_id           uuid NOT NULL,
  create_time       timestamptz NOT NULL,
  start_time        timestamptz,
  finish_time       timestamptz NOT NULL,
  state             smallint NOT NULL,
  attempt           integer NOT NULL,
  next_event_number integer NOT NULL,
  log_events        integer NOT NULL,
  progress          real NOT NULL,
  parent_task_id    uuid,
  queue             text NOT NULL,
  kind              text NOT NULL,
  traceparent       text NOT NULL,
  error_reason      text,
  error_message     text,
  spec              bytea NOT NULL,
  context           bytea,
  log               bytea NOT NULL,
  result            bytea,
  PRIMARY KEY (tenant_id, task_id)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.5);
COMMENT ON COLUMN scheduler.finished_tasks.state IS 'TaskState: 3 completed, 4 failed, 5 cancelled';
COMMENT ON COLUMN scheduler.finished_tasks.result IS 'google.protobuf.Value, serialized';
CREATE INDEX finished_tasks_children ON scheduler.finished_tasks (tenant_id, parent_task_id, task_id)
  WHERE parent_task_id IS NOT NULL;
-- Most tasks complete; whoever looks for those that did not should not have to read the others.
CREATE INDEX finished_tasks_not_completed ON scheduler.finished_tasks (tenant_id, state, task_id) WHERE state <> 3;

CREATE TABLE scheduler.task_events (
  tenant_id text NOT NULL,
  task_id   uuid NOT NULL,
  number    integer NOT NULL,
  value     bytea NOT NULL,
  PRIMARY KEY (tenant_id, task_id, number)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.5);
COMMENT ON COLUMN scheduler.task_events.value IS 'guildmesh.events.v1.TaskEvent, the exact bytes that Kafka gets';

CREATE TABLE scheduler.outbox (
  lane      smallint NOT NULL,
  position  bigint GENERATED ALWAYS AS IDENTITY,
  tenant_id text NOT NULL,
  events    integer NOT NULL,
  payload   bytea NOT NULL,
  create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (lane, position, tenant_id)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);
-- Compressing what is deleted a moment later is in vain.
ALTER TABLE scheduler.outbox ALTER COLUMN payload SET STORAGE EXTERNAL;
COMMENT ON COLUMN scheduler.outbox.tenant_id IS '* for a batch of all tenants';
COMMENT ON COLUMN scheduler.outbox.position IS 'grows with number within a task, since a task changes under its row lock';
COMMENT ON COLUMN scheduler.outbox.payload IS 'the records, see services.scheduler.storage.outbox_codec';

CREATE TABLE scheduler.task_requests (
  tenant_id    text NOT NULL,
  request_id   text NOT NULL,
  task_id      uuid NOT NULL,
  payload_hash bytea NOT NULL,
  create_time  timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, request_id)
);

CREATE TABLE scheduler.task_steps (
  tenant_id text NOT NULL,
  task_id   uuid NOT NULL,
  step_id   text NOT NULL,
  number    integer NOT NULL,
  attempt   integer NOT NULL,
  result    bytea NOT NULL,
  PRIMARY KEY (tenant_id, task_id, step_id)
);
COMMENT ON TABLE scheduler.task_steps IS 'journals of tasks that have not ended';
COMMENT ON COLUMN scheduler.task_steps.number IS 'number of its event, which is the order of the journal';
COMMENT ON COLUMN scheduler.task_steps.result IS 'google.protobuf.Value, serialized';

-- How many tasks there are, counted as they change: each commit adds its changes, and the sweeper sums them up. No tenant's data.
CREATE TABLE scheduler.task_counts (
  queue text NOT NULL,
  state smallint NOT NULL,
  tasks bigint NOT NULL,
  PRIMARY KEY (queue, state)
) WITH (fillfactor = 50);
CREATE TABLE scheduler.task_count_changes (
  queue  text NOT NULL,
  state  smallint NOT NULL,
  change integer NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000);

-- The relay's own: no tenant's data. Shard s belongs to lane s mod (number of lanes); see docs/decisions/0005-relay.md.
CREATE TABLE scheduler.relay_lanes (
  lane          smallint PRIMARY KEY,
  owner         text,
  epoch         bigint NOT NULL DEFAULT 0,
  lease_expires timestamptz
) WITH (fillfactor = 50);
INSERT INTO scheduler.relay_lanes (lane) SELECT generate_series(0, 3);

CREATE TABLE scheduler.relay_members (
  owner         text PRIMARY KEY,
  lease_expires timestamptz NOT NULL
);
"""


def upgrade() -> None:
    """Creates everything."""
    create_schema_and_roles(SCHEMA)
    for statement in TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)
    for table in ("tasks", "finished_tasks", "task_events", "outbox", "task_requests", "task_steps"):
        enable_tenant_rls(SCHEMA, table)
    op.execute("ALTER TABLE scheduler.queues ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE scheduler.queues FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant ON scheduler.queues TO scheduler_api"
        " USING (tenant_id IN ('*', current_setting('guildmesh.tenant', true)))"
        " WITH CHECK (tenant_id = current_setting('guildmesh.tenant', true))"
    )
    op.execute("CREATE POLICY engine ON scheduler.queues TO scheduler_engine USING (true) WITH CHECK (true)")
    grant(SCHEMA, "queues", "api", "SELECT")
    grant(SCHEMA, "queues", "engine", "SELECT, INSERT, UPDATE, DELETE")
    grant(SCHEMA, "task_counts", "engine", "SELECT, INSERT, UPDATE, DELETE")
    grant(SCHEMA, "task_count_changes", "engine", "SELECT, INSERT, UPDATE, DELETE")
    grant(SCHEMA, "task_count_changes", "api", "INSERT")
    grant(SCHEMA, "relay_lanes", "engine", "SELECT, INSERT, UPDATE, DELETE")
    grant(SCHEMA, "relay_members", "engine", "SELECT, INSERT, UPDATE, DELETE")


def downgrade() -> None:
    """Drops the tables; the roles stay, since they belong to the server."""
    op.execute(
        "DROP TABLE scheduler.relay_members, scheduler.relay_lanes, scheduler.task_count_changes, scheduler.task_counts,"
        " scheduler.task_steps, scheduler.task_requests, scheduler.outbox, scheduler.task_events, scheduler.finished_tasks,"
        " scheduler.tasks, scheduler.queues"
    )
