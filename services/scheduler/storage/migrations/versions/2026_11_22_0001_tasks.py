"""Tasks, their runs, events, outbox, request ids, step journal, queues, and the relay's lane leases.

How the tables are cut:

* `tasks` is what a task was created with; it is never updated.
* `task_runs` is the narrow row that changes. Its lease columns are in no index, so a heartbeat is a HOT update; the fill factor
  leaves room for it. Its key starts with the task, because a worker of the mesh names a task without its tenant, and because
  new rows then always go to the right edge of the index.
* `task_events` is the log: the exact bytes and headers that go to Kafka.
* `outbox` only points into the log, so an event is written once; a row lives until Kafka has acknowledged it.
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
  tenant_id      text NOT NULL,
  task_id        uuid NOT NULL,
  queue          text NOT NULL,
  kind           text NOT NULL,
  description    text NOT NULL,
  context        bytea,
  priority       smallint NOT NULL,
  timeout_ms     integer NOT NULL,
  max_attempts   smallint NOT NULL,
  parent_task_id uuid,
  labels         text NOT NULL,
  created_by     text NOT NULL,
  traceparent    text NOT NULL,
  create_time    timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, task_id),
  FOREIGN KEY (tenant_id, parent_task_id) REFERENCES scheduler.tasks (tenant_id, task_id)
);
COMMENT ON COLUMN scheduler.tasks.context IS 'google.protobuf.Struct, serialized';
COMMENT ON COLUMN scheduler.tasks.labels IS 'JSON object of strings';

CREATE TABLE scheduler.task_runs (
  tenant_id         text NOT NULL,
  task_id           uuid NOT NULL,
  position          bigint GENERATED ALWAYS AS IDENTITY,
  shard             smallint NOT NULL,
  state             smallint NOT NULL,
  queue             text NOT NULL,
  kind              text NOT NULL,
  queue_priority    smallint NOT NULL,
  priority          smallint NOT NULL,
  attempt           integer NOT NULL DEFAULT 0,
  max_attempts      smallint NOT NULL,
  timeout_ms        integer NOT NULL,
  next_event_number integer NOT NULL,
  has_children      boolean NOT NULL DEFAULT false,
  parent_task_id    uuid,
  traceparent       text NOT NULL,
  available_at      timestamptz NOT NULL,
  worker_id         text,
  lease_expires     timestamptz,
  start_time        timestamptz,
  deadline          timestamptz,
  finish_time       timestamptz,
  progress          real NOT NULL DEFAULT 0,
  result            bytea,
  error_reason      text,
  error_message     text,
  PRIMARY KEY (task_id, tenant_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000);
COMMENT ON COLUMN scheduler.task_runs.state IS 'TaskState: 1 pending, 2 running, 3 completed, 4 failed, 5 cancelled';
COMMENT ON COLUMN scheduler.task_runs.position IS 'first in, first out within a priority';
COMMENT ON COLUMN scheduler.task_runs.shard IS 'partition of Kafka, murmur2(task_id) mod 16';
COMMENT ON COLUMN scheduler.task_runs.deadline IS 'first start + timeout; past it the task fails with TIMEOUT';
COMMENT ON COLUMN scheduler.task_runs.result IS 'google.protobuf.Value, serialized';
-- What a lease takes next, for each kind.
CREATE INDEX task_runs_pending ON scheduler.task_runs (kind, queue_priority DESC, priority DESC, position) WHERE state = 1;
-- What the sweeper looks at: every started task that has not ended.
CREATE INDEX task_runs_started ON scheduler.task_runs (deadline) WHERE state IN (1, 2) AND deadline IS NOT NULL;
-- What a cascade walks.
CREATE INDEX task_runs_children ON scheduler.task_runs (tenant_id, parent_task_id, task_id) WHERE parent_task_id IS NOT NULL;

CREATE TABLE scheduler.task_events (
  tenant_id text NOT NULL,
  task_id   uuid NOT NULL,
  number    integer NOT NULL,
  type      text NOT NULL,
  value     bytea NOT NULL,
  headers   text NOT NULL,
  PRIMARY KEY (tenant_id, task_id, number)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.5);
COMMENT ON COLUMN scheduler.task_events.value IS 'guildmesh.events.v1.TaskEvent, the exact bytes that Kafka gets';
COMMENT ON COLUMN scheduler.task_events.headers IS 'JSON array of [name, value], the exact record headers that Kafka gets';

CREATE TABLE scheduler.outbox (
  shard     smallint NOT NULL,
  position  bigint GENERATED ALWAYS AS IDENTITY,
  tenant_id text NOT NULL,
  task_id   uuid NOT NULL,
  number    integer NOT NULL,
  snapshot  bytea NOT NULL,
  PRIMARY KEY (shard, position, tenant_id)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);
COMMENT ON COLUMN scheduler.outbox.position IS 'grows with number within a task, since a task changes under its row lock';
COMMENT ON COLUMN scheduler.outbox.snapshot IS 'guildmesh.events.v1.TaskSnapshot after the event';

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
  PRIMARY KEY (tenant_id, task_id, step_id),
  FOREIGN KEY (tenant_id, task_id) REFERENCES scheduler.tasks (tenant_id, task_id)
);
COMMENT ON COLUMN scheduler.task_steps.number IS 'number of its event, which is the order of the journal';
COMMENT ON COLUMN scheduler.task_steps.result IS 'google.protobuf.Value, serialized';

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
    for table in ("tasks", "task_runs", "task_events", "outbox", "task_requests", "task_steps"):
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
    grant(SCHEMA, "relay_lanes", "engine", "SELECT, INSERT, UPDATE, DELETE")
    grant(SCHEMA, "relay_members", "engine", "SELECT, INSERT, UPDATE, DELETE")


def downgrade() -> None:
    """Drops the tables; the roles stay, since they belong to the server."""
    op.execute(
        "DROP TABLE scheduler.relay_members, scheduler.relay_lanes, scheduler.task_steps, scheduler.task_requests,"
        " scheduler.outbox, scheduler.task_events, scheduler.task_runs, scheduler.tasks, scheduler.queues"
    )
