"""Output of tasks: how much of it is among a task's events, so that what is told twice is written once.

A task that puts out nothing has NULL there, which takes no room.
"""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column."""
    op.execute("ALTER TABLE scheduler.tasks ADD COLUMN output bigint")
    op.execute("COMMENT ON COLUMN scheduler.tasks.output IS 'attempt << 32 | sequence of its last chunk of output'")


def downgrade() -> None:
    """Takes it away."""
    op.execute("ALTER TABLE scheduler.tasks DROP COLUMN output")
