"""Secrets of webhooks may be sealed with a master key.

What is there stays plain until a scheduler that has a master key starts.
"""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_REFUSE = """
DO $$ BEGIN
  IF EXISTS (SELECT FROM scheduler.webhooks WHERE master_key_id IS NOT NULL) THEN
    RAISE EXCEPTION 'Secrets of webhooks are sealed, and the version before cannot open them.'
      USING HINT = 'Start schedulers without GUILDMESH_EVENT_MASTER_KEY and replace each with no overlap, or delete them.';
  END IF;
END $$
"""


def upgrade() -> None:
    """Adds which key that was."""
    op.execute("ALTER TABLE scheduler.webhooks ADD COLUMN master_key_id text")
    op.execute(
        "COMMENT ON COLUMN scheduler.webhooks.master_key_id IS"
        " 'of the master key that secret and previous_secret are sealed with; NULL: they are plain'"
    )


def downgrade() -> None:
    """Takes it away, unless that would have sealed bytes taken for secrets."""
    # As the table's owner one sees no row of it.
    op.execute("SET LOCAL ROLE scheduler_engine")
    op.execute(_REFUSE)
    op.execute("RESET ROLE")
    op.execute("ALTER TABLE scheduler.webhooks DROP COLUMN master_key_id")
