"""Tasks that wait for signals: what they wait for, and what of their timeout is left meanwhile."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE scheduler.tasks
  ADD COLUMN waits integer NOT NULL DEFAULT 0,
  ADD COLUMN wait_signal text,
  ADD COLUMN wait_prompt text,
  ADD COLUMN time_left_ms integer;
COMMENT ON COLUMN scheduler.tasks.state IS 'TaskState: 1 pending, 2 running, 6 scheduled, 7 waiting';
COMMENT ON COLUMN scheduler.tasks.waits IS 'how many attempts ended by waiting, which max_attempts does not count';
COMMENT ON COLUMN scheduler.tasks.wait_signal IS 'the signal that a waiting task waits for, until available_at';
COMMENT ON COLUMN scheduler.tasks.time_left_ms IS 'of the timeout, for a task that has waited and not started again';
DROP INDEX scheduler.tasks_scheduled;
CREATE INDEX tasks_scheduled ON scheduler.tasks (available_at) WHERE state IN (6, 7);
COMMENT ON TABLE scheduler.task_steps IS 'journals of tasks that have not ended: steps and signals'
"""


def upgrade() -> None:
    """Adds the columns, and the waiting tasks to the index that the timer looks at."""
    for statement in COLUMNS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """Takes them away; tasks that wait for a signal wait for a worker."""
    op.execute("UPDATE scheduler.tasks SET state = 1 WHERE state = 7")
    op.execute("DROP INDEX scheduler.tasks_scheduled")
    op.execute("CREATE INDEX tasks_scheduled ON scheduler.tasks (available_at) WHERE state = 6")
    op.execute(
        "ALTER TABLE scheduler.tasks DROP COLUMN waits, DROP COLUMN wait_signal, DROP COLUMN wait_prompt,"
        " DROP COLUMN time_left_ms"
    )
