"""When a task may start and must have ended: delays, deadlines, timeouts and retry policies.

Most tasks have none of them, so the columns are NULL and the plain path does not pay. Of all limits of a task the sweeper looks
for the first, `check_at`, whose index takes the place of the one over every started task: that one had to be read as a whole, and
with it what vacuum may not take while somebody's transaction is old. A heartbeat moves the end of a lease and not `check_at`, so
it stays a HOT update; what the sweeper finds too early it puts off.
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
  ADD COLUMN retry text,
  ADD COLUMN check_at timestamptz;
COMMENT ON COLUMN scheduler.tasks.state IS 'TaskState: 1 pending, 2 running, 6 scheduled';
COMMENT ON COLUMN scheduler.tasks.start_by IS 'when it fails unless it has started; NULL once it has';
COMMENT ON COLUMN scheduler.tasks.end_by IS 'when it fails unless it has ended, as asked for; part of start_by and deadline';
COMMENT ON COLUMN scheduler.tasks.attempt_ends IS 'when the attempt fails unless it has ended';
COMMENT ON COLUMN scheduler.tasks.quiet_ends IS 'when the attempt fails unless it has told progress or a step';
COMMENT ON COLUMN scheduler.tasks.retry IS 'RetryPolicy as JSON; NULL for the default';
-- What the timer looks at, and what the sweeper looks at besides the started tasks.
CREATE INDEX tasks_scheduled ON scheduler.tasks (available_at) WHERE state = 6;
COMMENT ON COLUMN scheduler.tasks.check_at IS 'when the sweeper looks at it next: not after the first of its limits';
UPDATE scheduler.tasks SET check_at = LEAST(deadline, lease_expires) WHERE deadline IS NOT NULL;
DROP INDEX scheduler.tasks_started;
CREATE INDEX tasks_check ON scheduler.tasks (check_at) WHERE check_at IS NOT NULL;
"""


def upgrade() -> None:
    """Adds the columns and indexes."""
    for statement in COLUMNS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """Takes them away; tasks that wait for a moment wait for a worker."""
    op.execute("UPDATE scheduler.tasks SET state = 1 WHERE state = 6")
    op.execute("DROP INDEX scheduler.tasks_scheduled, scheduler.tasks_check")
    op.execute("CREATE INDEX tasks_started ON scheduler.tasks (deadline) WHERE deadline IS NOT NULL")
    op.execute(
        "ALTER TABLE scheduler.tasks DROP COLUMN start_by, DROP COLUMN end_by, DROP COLUMN attempt_ends, DROP COLUMN quiet_ends,"
        " DROP COLUMN attempt_timeout_ms, DROP COLUMN heartbeat_timeout_ms, DROP COLUMN retry, DROP COLUMN check_at"
    )
