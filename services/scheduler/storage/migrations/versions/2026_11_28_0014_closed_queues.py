"""A queue that is about to be deleted takes no new tasks while it is looked whether any is left in it.

So that look, which goes through all open tasks when another queue has the same name, holds no lock.
"""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column."""
    op.execute("ALTER TABLE scheduler.queues ADD COLUMN closed_until timestamptz")
    op.execute(
        "COMMENT ON COLUMN scheduler.queues.closed_until IS"
        " 'until then it takes no new tasks, since somebody looks whether it can be deleted'"
    )


def downgrade() -> None:
    """Takes it away."""
    op.execute("ALTER TABLE scheduler.queues DROP COLUMN closed_until")
