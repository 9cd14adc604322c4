"""When a task may start and must have ended: delays, deadlines, timeouts and retry policies.

Most tasks have none of them, so the columns are NULL and the indexes small: the plain path pays for neither. What changes with
each attempt (`attempt_ends`, `quiet_ends`) is not indexed, so that a heartbeat stays a HOT update; the sweeper looks at every
started task anyway.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE scheduler.tasks
  ADD COLUMN start_by timestamptz,
  ADD COLUMN end_by timestamptz,
  ADD COLUMN attempt_ends timestamptz,
  ADD COLUMN quiet_ends timestamptz,
  ADD COLUMN attempt_timeout_ms integer,
  ADD COLUMN heartbeat_timeout_ms integer,
  ADD COLUMN retry text;
COMMENT ON COLUMN scheduler.tasks.state IS 'TaskState: 1 pending, 2 running, 6 scheduled';
COMMENT ON COLUMN scheduler.tasks.start_by IS 'when it fails unless it has started; NULL once it has';
COMMENT ON COLUMN scheduler.tasks.end_by IS 'when it fails unless it has ended, as asked for; part of start_by and deadline';
COMMENT ON COLUMN scheduler.tasks.attempt_ends IS 'when the attempt fails unless it has ended';
COMMENT ON COLUMN scheduler.tasks.quiet_ends IS 'when the attempt fails unless it has told progress or a step';
COMMENT ON COLUMN scheduler.tasks.retry IS 'RetryPolicy as JSON; NULL for the default';
-- What the timer looks at, and what the sweeper looks at besides the started tasks.
CREATE INDEX tasks_scheduled ON scheduler.tasks (available_at) WHERE state = 6;
CREATE INDEX tasks_start_by ON scheduler.tasks (start_by) WHERE start_by IS NOT NULL;
"""


def upgrade() -> None:
    """Adds the columns and indexes."""
    for statement in COLUMNS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """Takes them away; tasks that wait for a moment wait for a worker."""
    op.execute("UPDATE scheduler.tasks SET state = 1 WHERE state = 6")
    op.execute("DROP INDEX scheduler.tasks_scheduled, scheduler.tasks_start_by")
    op.execute(
        "ALTER TABLE scheduler.tasks DROP COLUMN start_by, DROP COLUMN end_by, DROP COLUMN attempt_ends, DROP COLUMN quiet_ends,"
        " DROP COLUMN attempt_timeout_ms, DROP COLUMN heartbeat_timeout_ms, DROP COLUMN retry"
    )
