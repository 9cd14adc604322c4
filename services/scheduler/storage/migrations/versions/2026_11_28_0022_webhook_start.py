"""From which event time on a webhook delivers, for as long as it is there.

Before, only a webhook that was behind its lane knew it, so one that came to be with the lane while events of before were still
ahead in the topic delivered them.
"""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the time, and for which generation it is; those that are there go on without."""
    op.execute("ALTER TABLE scheduler.webhooks ADD COLUMN start_time timestamptz, ADD COLUMN start_generation bigint")
    op.execute("COMMENT ON COLUMN scheduler.webhooks.start_time IS 'events from before it are not delivered'")
    op.execute(
        "COMMENT ON COLUMN scheduler.webhooks.start_generation IS"
        " 'generation that start_time is of; a scheduler of the version before sets a webhook back without it'"
    )


def downgrade() -> None:
    """Takes both away."""
    op.execute("ALTER TABLE scheduler.webhooks DROP COLUMN start_generation, DROP COLUMN start_time")
