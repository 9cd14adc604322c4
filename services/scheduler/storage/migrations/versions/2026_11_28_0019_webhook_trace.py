"""Deliveries of webhooks have the trace context of their tasks, as records on Kafka have."""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds it; what waits already goes out without."""
    op.execute("ALTER TABLE scheduler.webhook_deliveries ADD COLUMN traceparent text NOT NULL DEFAULT ''")
    op.execute("COMMENT ON COLUMN scheduler.webhook_deliveries.traceparent IS 'W3C trace context, as on the topic; may be empty'")


def downgrade() -> None:
    """Takes it away."""
    op.execute("ALTER TABLE scheduler.webhook_deliveries DROP COLUMN traceparent")
