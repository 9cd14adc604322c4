"""Tools and the effect ledger."""

from alembic import op

from services.common.db.migrations import create_schema_and_roles, enable_tenant_rls

revision = "tool_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the first tables of tool."""
    create_schema_and_roles("tool")
    op.execute(
        """
        CREATE TABLE tool.tools (
          tenant_id text COLLATE "C" NOT NULL,
          tool_name text COLLATE "C" NOT NULL CHECK (tool_name ~ '^[a-z][a-z0-9_]{0,62}$'),
          description text NOT NULL,
          -- json, not jsonb: it is given back as it came.
          input_schema json NOT NULL,
          effect text NOT NULL CHECK (effect IN ('pure', 'idempotent', 'once')),
          source text NOT NULL,
          create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
          PRIMARY KEY (tenant_id, tool_name)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE tool.executions (
          tenant_id text COLLATE "C" NOT NULL,
          execution_id uuid NOT NULL,
          tool_name text COLLATE "C" NOT NULL,
          username text NOT NULL,
          task_id text COLLATE "C" NOT NULL,
          step_id text COLLATE "C" NOT NULL,
          attempt integer NOT NULL,
          effect text NOT NULL CHECK (effect IN ('pure', 'idempotent', 'once')),
          arguments json NOT NULL,
          state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'ended', 'unknown')),
          -- Names the run that may end the row: a run that lost its lease must not overwrite the next one's answer.
          run_id uuid NOT NULL,
          lease_until timestamptz NOT NULL,
          exit_code integer,
          -- bytea, because a program may print NUL.
          output bytea,
          error text,
          result json,
          seconds double precision,
          create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
          end_time timestamptz,
          PRIMARY KEY (tenant_id, execution_id),
          CHECK ((state = 'ended') = (exit_code IS NOT NULL))
        )
        """
    )
    op.execute(
        "CREATE UNIQUE INDEX executions_step ON tool.executions (tenant_id, task_id, step_id)"
        " WHERE task_id <> '' AND step_id <> ''"
    )
    op.execute("CREATE INDEX executions_task ON tool.executions (tenant_id, task_id, execution_id DESC) WHERE task_id <> ''")
    op.execute("CREATE INDEX executions_leases ON tool.executions (lease_until) WHERE state = 'running'")
    enable_tenant_rls("tool", "tools")
    enable_tenant_rls("tool", "executions")


def downgrade() -> None:
    """Removes what upgrade made."""
    op.execute("DROP TABLE tool.executions, tool.tools")
