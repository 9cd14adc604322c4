"""Schedules whose tasks have a payload as their context: it is kept as long as the schedule is.

A schedule without one has NULL there, which takes no room.
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column."""
    op.execute("ALTER TABLE scheduler.schedules ADD COLUMN context_payload uuid")
    op.execute("COMMENT ON COLUMN scheduler.schedules.context_payload IS 'the payload that is the context of its tasks'")
    op.execute(
        "ALTER TABLE scheduler.schedules ADD CONSTRAINT schedules_context_payload"
        " FOREIGN KEY (context_payload, tenant_id) REFERENCES scheduler.payloads"
    )
    op.execute(
        "CREATE INDEX schedules_payload ON scheduler.schedules (context_payload, tenant_id) WHERE context_payload IS NOT NULL"
    )


def downgrade() -> None:
    """Takes it away."""
    op.execute("ALTER TABLE scheduler.schedules DROP COLUMN context_payload")
