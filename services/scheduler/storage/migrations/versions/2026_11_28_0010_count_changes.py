"""A commit writes what it has changed of the counts as one row, however many queues its tasks are in."""

from __future__ import annotations

from alembic import op

from services.common.db.migrations import grant

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

SCHEMA = "scheduler"
SUM_UP = """
INSERT INTO scheduler.task_counts AS c (queue, state, tasks)
SELECT queue, state, sum(change) FROM {changes} GROUP BY queue, state
ON CONFLICT (queue, state) DO UPDATE SET tasks = c.tasks + EXCLUDED.tasks
"""


def upgrade() -> None:
    """Sums up what is there, and makes the table anew."""
    op.execute(SUM_UP.format(changes="scheduler.task_count_changes"))
    op.execute("DROP TABLE scheduler.task_count_changes")
    op.execute(
        """
CREATE TABLE scheduler.task_count_changes (
  queues  text[] NOT NULL,
  states  smallint[] NOT NULL,
  changes integer[] NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000)
"""
    )
    op.execute(
        "COMMENT ON TABLE scheduler.task_count_changes IS 'changes of task_counts not summed up yet, a row for each commit'"
    )
    _grant()


def downgrade() -> None:
    """The same the other way."""
    op.execute(SUM_UP.format(changes="scheduler.task_count_changes, unnest(queues, states, changes) AS g (queue, state, change)"))
    op.execute("DROP TABLE scheduler.task_count_changes")
    op.execute(
        """
CREATE TABLE scheduler.task_count_changes (
  queue  text NOT NULL,
  state  smallint NOT NULL,
  change integer NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000)
"""
    )
    _grant()


def _grant() -> None:
    grant(SCHEMA, "task_count_changes", "engine", "SELECT, INSERT, UPDATE, DELETE")
    grant(SCHEMA, "task_count_changes", "api", "INSERT")
