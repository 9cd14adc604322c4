"""Events from elsewhere: which of other services are in the logs of tasks, and what subtasks have left for their parents.

Both tables have rows only of tasks that use this, and only until the task has ended, or until the parent is told.
"""

from __future__ import annotations

from alembic import op

from services.common.db.migrations import enable_tenant_rls

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE scheduler.appended_events (
  tenant_id text NOT NULL,
  task_id   uuid NOT NULL,
  source    text NOT NULL,
  source_id text NOT NULL,
  number    integer NOT NULL,
  PRIMARY KEY (tenant_id, task_id, source, source_id)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000);
COMMENT ON TABLE scheduler.appended_events IS 'events of other services in the logs of tasks that have not ended';

CREATE TABLE scheduler.child_changes (
  tenant_id      text NOT NULL,
  parent_task_id uuid NOT NULL,
  position       bigint GENERATED ALWAYS AS IDENTITY,
  child_task_id  uuid NOT NULL,
  kind           text NOT NULL,
  queue          text NOT NULL,
  actor          text NOT NULL,
  state          smallint,
  reason         text NOT NULL,
  PRIMARY KEY (parent_task_id, position, tenant_id)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE scheduler.child_changes IS 'what is not among the events of parents yet';
COMMENT ON COLUMN scheduler.child_changes.state IS 'TaskState of one that has ended; NULL for one that was created';
"""


def upgrade() -> None:
    """Adds the tables."""
    for statement in TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)
    for table in ("appended_events", "child_changes"):
        enable_tenant_rls("scheduler", table)


def downgrade() -> None:
    """Takes them away: what parents were not told yet, they are never told."""
    op.execute("DROP TABLE scheduler.child_changes, scheduler.appended_events")
