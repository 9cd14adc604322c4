"""Payloads by reference: what is too large for a task's row lies in an object store, and a row here says of it.

A row is written before its object and goes after it, so that no object is ever without a row. Tasks that use no payload have
nothing here.
"""

from __future__ import annotations

from alembic import op

from services.common.db.migrations import enable_tenant_rls, grant

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

SCHEMA = "scheduler"

TABLES = """
CREATE TABLE scheduler.payloads (
  create_time  timestamptz NOT NULL DEFAULT clock_timestamp(),
  expire_time  timestamptz NOT NULL,
  check_time   timestamptz NOT NULL,
  size_bytes   bigint NOT NULL DEFAULT 0,
  state        smallint NOT NULL DEFAULT 1 CHECK (state IN (1, 2, 3)),
  payload_id   uuid NOT NULL,
  tenant_id    text NOT NULL,
  content_type text NOT NULL,
  sha256       bytea NOT NULL DEFAULT '',
  PRIMARY KEY (payload_id, tenant_id)
);
COMMENT ON COLUMN scheduler.payloads.state IS '1 UPLOADING, 2 READY, 3 DELETING';
COMMENT ON COLUMN scheduler.payloads.check_time IS 'when it is next looked at whether anything uses it';
CREATE INDEX payloads_check ON scheduler.payloads (check_time);
CREATE TABLE scheduler.task_payloads (
  task_id    uuid NOT NULL,
  payload_id uuid NOT NULL,
  use        smallint NOT NULL CHECK (use IN (1, 2)),
  tenant_id  text NOT NULL,
  PRIMARY KEY (task_id, tenant_id, use),
  FOREIGN KEY (payload_id, tenant_id) REFERENCES scheduler.payloads
);
COMMENT ON COLUMN scheduler.task_payloads.use IS '1 as its context, 2 as its result';
CREATE INDEX task_payloads_payload ON scheduler.task_payloads (payload_id, tenant_id)
"""


def upgrade() -> None:
    """Adds the tables."""
    for statement in TABLES.split(";\n"):
        op.execute(statement)
    for table in ("payloads", "task_payloads"):
        for role in ("api", "engine"):
            grant(SCHEMA, table, role, "SELECT, INSERT, UPDATE, DELETE")
        enable_tenant_rls(SCHEMA, table)


def downgrade() -> None:
    """Takes them away; the objects stay where they are."""
    op.execute("DROP TABLE scheduler.task_payloads, scheduler.payloads")
