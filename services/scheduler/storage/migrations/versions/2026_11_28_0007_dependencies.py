"""Tasks that wait for other tasks: an edge is a row until its dependant has ended.

Most tasks have no dependencies, so their columns are NULL or false and the plain path does not pay. A task that another one
depends on says so in its row, which its end looks at under the row's lock: so no edge can be missed, as with subtasks. What has
ended before all that follows from it was done, because that is too much for one transaction, is in `unsettled_tasks`.
"""

from __future__ import annotations

from alembic import op

from services.common.db.migrations import enable_tenant_rls

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SCHEMA = "scheduler"

TABLES = """
ALTER TABLE scheduler.tasks
  ADD COLUMN blocked_by integer,
  ADD COLUMN start_timeout_ms integer,
  ADD COLUMN has_dependants boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN scheduler.tasks.state IS 'TaskState: 1 pending, 2 running, 6 scheduled, 7 waiting, 8 blocked';
COMMENT ON COLUMN scheduler.tasks.blocked_by IS 'how many of its dependencies have not ended; NULL when it has none';
COMMENT ON COLUMN scheduler.tasks.start_timeout_ms IS 'of a task with dependencies: start_by counts from when it is unblocked';
COMMENT ON COLUMN scheduler.tasks.has_dependants IS 'a task depends on it, or did';
CREATE TABLE scheduler.task_dependencies (
  task_id        uuid NOT NULL,
  upstream_id    uuid NOT NULL,
  place          smallint NOT NULL,
  failure_policy smallint NOT NULL,
  upstream_state smallint,
  tenant_id      text NOT NULL,
  name           text NOT NULL,
  PRIMARY KEY (tenant_id, task_id, upstream_id)
);
COMMENT ON TABLE scheduler.task_dependencies IS 'what tasks that have not ended depend on';
COMMENT ON COLUMN scheduler.task_dependencies.task_id IS 'the dependant';
COMMENT ON COLUMN scheduler.task_dependencies.place IS 'order among the dependencies of a task';
COMMENT ON COLUMN scheduler.task_dependencies.failure_policy IS 'DependencyFailurePolicy: 1 fail, 2 cancel, 3 continue';
COMMENT ON COLUMN scheduler.task_dependencies.upstream_state IS 'TaskState in which the dependency has ended; NULL until then';
CREATE INDEX task_dependencies_upstream ON scheduler.task_dependencies (tenant_id, upstream_id) WHERE upstream_state IS NULL;
CREATE TABLE scheduler.unsettled_tasks (
  task_id      uuid NOT NULL,
  state        smallint NOT NULL,
  tenant_id    text NOT NULL,
  error_reason text,
  PRIMARY KEY (tenant_id, task_id)
);
COMMENT ON TABLE scheduler.unsettled_tasks IS 'ended tasks whose dependants have not all been told; the sweeper goes on'
"""


def upgrade() -> None:
    """Adds the columns and tables."""
    for statement in TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)
    enable_tenant_rls(SCHEMA, "task_dependencies")
    enable_tenant_rls(SCHEMA, "unsettled_tasks")


def downgrade() -> None:
    """Takes them away; tasks that wait for others wait for a worker."""
    op.execute("UPDATE scheduler.tasks SET state = 1 WHERE state = 8")
    op.execute("DROP TABLE scheduler.unsettled_tasks, scheduler.task_dependencies")
    op.execute("ALTER TABLE scheduler.tasks DROP COLUMN blocked_by, DROP COLUMN start_timeout_ms, DROP COLUMN has_dependants")
