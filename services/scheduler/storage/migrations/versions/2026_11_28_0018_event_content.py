"""What of users' texts goes to Kafka: the choice of a queue, what a task was created with, and the keys of users.

A task of a queue that chose nothing, in a mesh that publishes all, has NULL in both columns, which takes no room.
"""

from __future__ import annotations

from alembic import op

from services.common.db.migrations import enable_tenant_rls

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

CHANGES = """
ALTER TABLE scheduler.queues ADD COLUMN event_content smallint CHECK (event_content IN (1, 2, 3));
COMMENT ON COLUMN scheduler.queues.event_content IS '1 plain, 2 omit, 3 encrypted, NULL for the default of the mesh';
CREATE INDEX queues_event_content ON scheduler.queues (queue) WHERE event_content IS NOT NULL;
ALTER TABLE scheduler.tasks ADD COLUMN event_content smallint, ADD COLUMN event_key_id uuid;
COMMENT ON COLUMN scheduler.tasks.event_content IS 'as of its queue when it was created, NULL for plain';
COMMENT ON COLUMN scheduler.tasks.event_key_id IS 'key that its events are encrypted with, of event_keys';
ALTER TABLE scheduler.finished_tasks ADD COLUMN event_content smallint, ADD COLUMN event_key_id uuid;
COMMENT ON COLUMN scheduler.finished_tasks.event_content IS 'as in tasks: what is published again is as it was';
CREATE TABLE scheduler.event_keys (
  tenant_id     text NOT NULL,
  username      text NOT NULL,
  key_id        uuid NOT NULL UNIQUE,
  sealed_key    bytea,
  master_key_id text,
  create_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
  erase_time    timestamptz,
  PRIMARY KEY (tenant_id, username),
  CHECK ((sealed_key IS NULL) = (erase_time IS NOT NULL))
);
COMMENT ON COLUMN scheduler.event_keys.sealed_key IS 'AES-256-GCM with a master key; NULL once the user is erased';
COMMENT ON COLUMN scheduler.event_keys.master_key_id IS 'which master key sealed it';
CREATE INDEX event_keys_erased ON scheduler.event_keys (erase_time) WHERE erase_time IS NOT NULL
"""


def upgrade() -> None:
    """Adds them."""
    for statement in CHANGES.split(";\n"):
        op.execute(statement)
    enable_tenant_rls("scheduler", "event_keys")


def downgrade() -> None:
    """Takes them away; what was encrypted cannot be read any more then."""
    op.execute("DROP TABLE scheduler.event_keys")
    op.execute("ALTER TABLE scheduler.finished_tasks DROP COLUMN event_content, DROP COLUMN event_key_id")
    op.execute("ALTER TABLE scheduler.tasks DROP COLUMN event_content, DROP COLUMN event_key_id")
    op.execute("ALTER TABLE scheduler.queues DROP COLUMN event_content")
