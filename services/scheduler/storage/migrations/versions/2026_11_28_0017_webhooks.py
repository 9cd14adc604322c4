"""Webhooks: what is sent where, how far it is, and what waits.

Nothing here is touched by a task: events are read from the topic. A lane is a fourth of the topic's partitions and has one owner.
A webhook whose events are taken out of the topic as far as its lane's has no row in webhook_backlogs; one that is behind the lane
(new, replayed, or with too much waiting) has one that says where it goes on.
"""

from __future__ import annotations

from alembic import op

from services.common.db.migrations import enable_tenant_rls, grant

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

SCHEMA = "scheduler"

TABLES = """
CREATE TABLE scheduler.webhooks (
  create_time                 timestamptz NOT NULL,
  update_time                 timestamptz NOT NULL,
  failing_since               timestamptz,
  missed_time                 timestamptz,
  previous_secret_expire_time timestamptz,
  version                     bigint NOT NULL DEFAULT 1,
  generation                  bigint NOT NULL DEFAULT 1,
  uid                         uuid NOT NULL,
  paused                      boolean NOT NULL DEFAULT false,
  tenant_id                   text NOT NULL,
  webhook_id                  text NOT NULL COLLATE "C",
  url                         text NOT NULL,
  filter                      text NOT NULL,
  description                 text NOT NULL,
  last_error                  text NOT NULL DEFAULT '',
  created_by                  text NOT NULL,
  secret                      bytea NOT NULL,
  previous_secret             bytea,
  PRIMARY KEY (tenant_id, webhook_id),
  UNIQUE (uid, tenant_id)
) WITH (fillfactor = 80);
COMMENT ON COLUMN scheduler.webhooks.version IS 'grows with each change that somebody makes';
COMMENT ON COLUMN scheduler.webhooks.generation IS 'grows when the place from which it delivers is set anew';
COMMENT ON COLUMN scheduler.webhooks.uid IS 'tells it from a deleted one of the same id';

CREATE TABLE scheduler.webhook_backlogs (
  start_time timestamptz NOT NULL,
  uid        uuid NOT NULL,
  lane       smallint NOT NULL,
  tenant_id  text NOT NULL,
  positions  bigint[],
  PRIMARY KEY (tenant_id, uid, lane),
  FOREIGN KEY (tenant_id, uid) REFERENCES scheduler.webhooks (tenant_id, uid) ON DELETE CASCADE
) WITH (fillfactor = 50);
COMMENT ON COLUMN scheduler.webhook_backlogs.start_time IS 'events from before it are not delivered';
COMMENT ON COLUMN scheduler.webhook_backlogs.positions IS 'offsets of the next records, NULL: where start_time is';

CREATE TABLE scheduler.webhook_lines (
  next_time timestamptz NOT NULL,
  attempts  integer NOT NULL DEFAULT 0,
  uid       uuid NOT NULL,
  task_id   uuid NOT NULL,
  lane      smallint NOT NULL,
  tenant_id text NOT NULL,
  PRIMARY KEY (tenant_id, uid, task_id),
  FOREIGN KEY (tenant_id, uid) REFERENCES scheduler.webhooks (tenant_id, uid) ON DELETE CASCADE
) WITH (fillfactor = 70);
COMMENT ON TABLE scheduler.webhook_lines IS 'tasks with events that wait for their delivery to a webhook, one after the other';
COMMENT ON COLUMN scheduler.webhook_lines.attempts IS 'how often the first of them was refused';
CREATE INDEX webhook_lines_due ON scheduler.webhook_lines (lane, uid, next_time);

CREATE TABLE scheduler.webhook_deliveries (
  fail_time   timestamptz,
  number      integer NOT NULL,
  attempts    integer NOT NULL DEFAULT 0,
  status_code integer NOT NULL DEFAULT 0,
  uid         uuid NOT NULL,
  task_id     uuid NOT NULL,
  lane        smallint NOT NULL,
  tenant_id   text NOT NULL,
  error       text NOT NULL DEFAULT '',
  event       bytea NOT NULL,
  PRIMARY KEY (tenant_id, uid, task_id, number),
  FOREIGN KEY (tenant_id, uid) REFERENCES scheduler.webhooks (tenant_id, uid) ON DELETE CASCADE
);
COMMENT ON COLUMN scheduler.webhook_deliveries.fail_time IS 'when it was given up; NULL while it waits';
COMMENT ON COLUMN scheduler.webhook_deliveries.event IS 'guildmesh.events.v1.TaskEvent, serialized';
CREATE INDEX webhook_deliveries_failed ON scheduler.webhook_deliveries (tenant_id, uid, fail_time) WHERE fail_time IS NOT NULL;
CREATE INDEX webhook_deliveries_expired ON scheduler.webhook_deliveries (fail_time) WHERE fail_time IS NOT NULL;
CREATE INDEX webhook_deliveries_waiting ON scheduler.webhook_deliveries (lane, uid) WHERE fail_time IS NULL;

CREATE TABLE scheduler.webhook_lanes (
  lane          smallint PRIMARY KEY,
  owner         text,
  epoch         bigint NOT NULL DEFAULT 0,
  lease_expires timestamptz,
  positions     bigint[]
) WITH (fillfactor = 50);
COMMENT ON COLUMN scheduler.webhook_lanes.positions IS 'offsets of the next records';
INSERT INTO scheduler.webhook_lanes (lane) SELECT generate_series(0, 3);

CREATE TABLE scheduler.webhook_members (
  owner         text PRIMARY KEY,
  lease_expires timestamptz NOT NULL
)
"""


def upgrade() -> None:
    """Creates the tables."""
    for statement in TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)
    for table in ("webhooks", "webhook_backlogs", "webhook_lines", "webhook_deliveries"):
        enable_tenant_rls(SCHEMA, table)
    for table in ("webhook_lanes", "webhook_members"):
        grant(SCHEMA, table, "engine", "SELECT, INSERT, UPDATE, DELETE")


def downgrade() -> None:
    """Drops them; what waits is not delivered."""
    op.execute(
        "DROP TABLE scheduler.webhook_members, scheduler.webhook_lanes, scheduler.webhook_deliveries, scheduler.webhook_lines,"
        " scheduler.webhook_backlogs, scheduler.webhooks"
    )
