"""What is told of executions: to the scheduler, which numbers it in the logs of tasks, and to Kafka.

A row of an outbox is written with the row of the ledger that it tells of, and deleted when its taker has acknowledged it.
"""

from alembic import op

from services.common.db.migrations import enable_tenant_rls, grant

revision = "tool_0002"
down_revision = "tool_0001"
branch_labels = None
depends_on = None

TABLES = """
ALTER TABLE tool.executions
  ADD COLUMN run integer NOT NULL DEFAULT 1,
  ADD COLUMN begin_time timestamptz NOT NULL DEFAULT clock_timestamp(),
  ADD COLUMN traceparent text NOT NULL DEFAULT '',
  ADD COLUMN log_refusal text NOT NULL DEFAULT '';
COMMENT ON COLUMN tool.executions.run IS 'an execution that was cut off may run again';
COMMENT ON COLUMN tool.executions.log_refusal IS 'why an event of it is not in the log of its task';

CREATE TABLE tool.log_outbox (
  lane         smallint NOT NULL,
  position     bigint GENERATED ALWAYS AS IDENTITY,
  tenant_id    text COLLATE "C" NOT NULL,
  execution_id uuid NOT NULL,
  payload      bytea NOT NULL,
  PRIMARY KEY (lane, position, tenant_id)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);
COMMENT ON COLUMN tool.log_outbox.payload IS 'guildmesh.scheduler.v1.AppendedEvent, serialized';
CREATE INDEX log_outbox_execution ON tool.log_outbox (execution_id);

CREATE TABLE tool.usage_outbox (
  position    bigint GENERATED ALWAYS AS IDENTITY,
  tenant_id   text COLLATE "C" NOT NULL,
  usage_id    text NOT NULL,
  traceparent text NOT NULL,
  payload     bytea NOT NULL,
  PRIMARY KEY (position, tenant_id)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);
COMMENT ON COLUMN tool.usage_outbox.payload IS 'guildmesh.events.v1.ToolUsage, serialized';

-- No tenant's data: see services.common.lanes. Lanes 0 to 3 tell the scheduler, lane 4 tells Kafka.
CREATE TABLE tool.relay_lanes (
  lane          smallint PRIMARY KEY,
  owner         text,
  epoch         bigint NOT NULL DEFAULT 0,
  lease_expires timestamptz
) WITH (fillfactor = 50);
INSERT INTO tool.relay_lanes (lane) SELECT generate_series(0, 4);
CREATE TABLE tool.relay_members (
  owner         text PRIMARY KEY,
  lease_expires timestamptz NOT NULL
);
"""


def upgrade() -> None:
    """Adds the outboxes and the leases of their lanes."""
    for statement in TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)
    for table in ("log_outbox", "usage_outbox"):
        enable_tenant_rls("tool", table)
    for table in ("relay_lanes", "relay_members"):
        grant("tool", table, "engine", "SELECT, INSERT, UPDATE, DELETE")


def downgrade() -> None:
    """Takes them away: what was not told yet is never told."""
    op.execute("DROP TABLE tool.relay_members, tool.relay_lanes, tool.usage_outbox, tool.log_outbox")
    op.execute(
        "ALTER TABLE tool.executions DROP COLUMN run, DROP COLUMN begin_time, DROP COLUMN traceparent, DROP COLUMN log_refusal"
    )
