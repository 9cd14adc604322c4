"""Queues as resources: limits, rates, pause, defaults for their tasks; and dead letters: what failed, kept apart.

A queue of the tenant `*` is every tenant's; a tenant that creates one of the same name has its own instead. The row security lets
a tenant read the shared ones and change only its own.

`dead_letters` has a narrow row for each FAILED task that is kept, written in the transaction in which it fails, so that they are
listed and replayed without a look at what else has ended. A dismissed one stays, so that each failed task has one.
"""

from __future__ import annotations

from alembic import op

from services.common.db.migrations import enable_tenant_rls, grant

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

# The widest first, so that nothing is lost to alignment.
DEAD_LETTERS = """
CREATE TABLE scheduler.dead_letters (
  fail_time      timestamptz NOT NULL,
  replay_time    timestamptz,
  dismiss_time   timestamptz,
  attempts       integer NOT NULL,
  retention_days smallint NOT NULL,
  task_id        uuid NOT NULL,
  replay_task_id uuid,
  tenant_id      text NOT NULL,
  queue          text NOT NULL,
  kind           text NOT NULL,
  reason         text NOT NULL,
  PRIMARY KEY (task_id, tenant_id)
) WITH (fillfactor = 90);
COMMENT ON COLUMN scheduler.dead_letters.retention_days IS 'the class that its task is kept in';
COMMENT ON COLUMN scheduler.dead_letters.replay_task_id IS 'the task that it was last replayed as';
COMMENT ON COLUMN scheduler.dead_letters.dismiss_time IS 'since when it is not listed any more';
CREATE INDEX dead_letters_queue ON scheduler.dead_letters (tenant_id, queue, fail_time, task_id) WHERE dismiss_time IS NULL;
-- What a replay of many takes next, however many were replayed before.
CREATE INDEX dead_letters_open ON scheduler.dead_letters (tenant_id, queue, fail_time, task_id)
  WHERE dismiss_time IS NULL AND replay_time IS NULL
"""
# What a replica of the version before ends meanwhile has none; ReplayTask makes it when it is asked for.
FAILED = """
INSERT INTO scheduler.dead_letters (tenant_id, task_id, queue, kind, fail_time, reason, attempts, retention_days)
SELECT tenant_id, task_id, queue, kind, finish_time, COALESCE(error_reason, 'UNKNOWN'), attempt, retention_days
FROM scheduler.finished_tasks WHERE state = 4
"""


def upgrade() -> None:
    """Adds columns and table, and a dead letter for each task that has failed so far; what ends meanwhile waits."""
    _execute(COLUMNS)
    grant(SCHEMA, "queues", "api", "SELECT, INSERT, UPDATE, DELETE")
    op.execute("DROP POLICY tenant ON scheduler.queues")
    own = "tenant_id = current_setting('guildmesh.tenant', true)"
    op.execute(f"CREATE POLICY tenant ON scheduler.queues TO scheduler_api USING ({own}) WITH CHECK ({own})")
    op.execute("CREATE POLICY shared ON scheduler.queues FOR SELECT TO scheduler_api USING (tenant_id = '*')")
    _execute(DEAD_LETTERS)
    # Not even its owner sees a row of a table whose row security is forced.
    op.execute("ALTER TABLE scheduler.finished_tasks NO FORCE ROW LEVEL SECURITY")
    op.execute(FAILED)
    op.execute("ALTER TABLE scheduler.finished_tasks FORCE ROW LEVEL SECURITY")
    enable_tenant_rls(SCHEMA, "dead_letters")
    # Which tasks nobody sees any more is no tenant's secret; how far they have come on their way out is nobody's business.
    op.execute("GRANT SELECT (retention_days, lower_id, upper_id, detach_time) ON scheduler.task_partitions TO scheduler_api")


def downgrade() -> None:
    """Takes them away. Queues of tenants stay, and have nothing but a priority and a retention."""
    op.execute("REVOKE SELECT (retention_days, lower_id, upper_id, detach_time) ON scheduler.task_partitions FROM scheduler_api")
    op.execute("DROP TABLE scheduler.dead_letters")
    op.execute("DROP POLICY shared ON scheduler.queues")
    op.execute("DROP POLICY tenant ON scheduler.queues")
    op.execute(
        "CREATE POLICY tenant ON scheduler.queues TO scheduler_api"
        " USING (tenant_id IN ('*', current_setting('guildmesh.tenant', true)))"
        " WITH CHECK (tenant_id = current_setting('guildmesh.tenant', true))"
    )
    op.execute("REVOKE INSERT, UPDATE, DELETE ON scheduler.queues FROM scheduler_api")
    op.execute(
        "ALTER TABLE scheduler.queues DROP COLUMN create_time, DROP COLUMN update_time, DROP COLUMN version,"
        " DROP COLUMN rate_per_second, DROP COLUMN rate_burst, DROP COLUMN max_running, DROP COLUMN max_running_per_key,"
        " DROP COLUMN max_attempts, DROP COLUMN dead_letter_retention_days, DROP COLUMN paused, DROP COLUMN retry,"
        " DROP COLUMN tenant_weights"
    )


def _execute(statements: str) -> None:
    for statement in statements.split(";\n"):
        if statement.strip():
            op.execute(statement)
