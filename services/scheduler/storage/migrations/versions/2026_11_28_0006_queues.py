"""Queues as resources: limits, rates, pause, defaults for their tasks, and how long what failed is kept.

A queue of the tenant `*` is every tenant's; a tenant that creates one of the same name has its own instead.
"""

from __future__ import annotations

from alembic import op

from services.common.db.migrations import grant

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SCHEMA = "scheduler"

COLUMNS = """
ALTER TABLE scheduler.queues
  ADD COLUMN create_time timestamptz NOT NULL DEFAULT now(),
  ADD COLUMN update_time timestamptz NOT NULL DEFAULT now(),
  ADD COLUMN version bigint NOT NULL DEFAULT 1,
  ADD COLUMN rate_per_second double precision CHECK (rate_per_second > 0),
  ADD COLUMN rate_burst integer CHECK (rate_burst >= 1),
  ADD COLUMN max_running integer CHECK (max_running >= 1),
  ADD COLUMN max_running_per_key integer CHECK (max_running_per_key >= 1),
  ADD COLUMN max_attempts smallint CHECK (max_attempts >= 1),
  ADD COLUMN dead_letter_retention_days smallint CHECK (dead_letter_retention_days IN (0, 1, 7, 30, 90)),
  ADD COLUMN paused boolean NOT NULL DEFAULT false,
  ADD COLUMN retry text,
  ADD COLUMN tenant_weights jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN scheduler.queues.version IS 'grows with each change that somebody makes';
COMMENT ON COLUMN scheduler.queues.rate_per_second IS 'starts a second at most, NULL for no limit';
COMMENT ON COLUMN scheduler.queues.rate_burst IS 'starts that may come at once when none came before';
COMMENT ON COLUMN scheduler.queues.max_running IS 'tasks that run at once at most, NULL for no limit';
COMMENT ON COLUMN scheduler.queues.max_running_per_key IS 'the same for those of one concurrency key';
COMMENT ON COLUMN scheduler.queues.max_attempts IS 'for tasks that do not say, NULL for the default';
COMMENT ON COLUMN scheduler.queues.dead_letter_retention_days IS 'days a FAILED task is kept, NULL as long as others';
COMMENT ON COLUMN scheduler.queues.paused IS 'no task of it starts';
COMMENT ON COLUMN scheduler.queues.retry IS 'RetryPolicy as JSON for tasks that do not say, NULL for the default';
COMMENT ON COLUMN scheduler.queues.tenant_weights IS 'tenant to weight in a queue of all tenants; 1 where it says nothing'
"""


def upgrade() -> None:
    """Adds the columns."""
    for statement in COLUMNS.split(";\n"):
        if statement.strip():
            op.execute(statement)
    grant(SCHEMA, "queues", "api", "SELECT, INSERT, UPDATE, DELETE")


def downgrade() -> None:
    """Takes them away."""
    op.execute("REVOKE INSERT, UPDATE, DELETE ON scheduler.queues FROM scheduler_api")
    op.execute(
        "ALTER TABLE scheduler.queues DROP COLUMN create_time, DROP COLUMN update_time, DROP COLUMN version,"
        " DROP COLUMN rate_per_second, DROP COLUMN rate_burst, DROP COLUMN max_running, DROP COLUMN max_running_per_key,"
        " DROP COLUMN max_attempts, DROP COLUMN dead_letter_retention_days, DROP COLUMN paused, DROP COLUMN retry,"
        " DROP COLUMN tenant_weights"
    )
