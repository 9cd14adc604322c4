"""Agents and scenarios.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from alembic import op

from services.common.db.migrations import create_schema_and_roles, enable_tenant_rls

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the two tables. A scenario is one document: it is read and copied into a run as a whole."""
    create_schema_and_roles("agent")
    op.execute(
        """
        CREATE TABLE agent.agents (
          tenant_id text NOT NULL,
          agent_id text COLLATE "C" NOT NULL,
          display_name text NOT NULL,
          agent_type text NOT NULL,
          instructions text NOT NULL,
          model text NOT NULL,
          queue text NOT NULL,
          tools text[] NOT NULL,
          create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
          PRIMARY KEY (tenant_id, agent_id)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE agent.scenarios (
          tenant_id text NOT NULL,
          scenario_id text COLLATE "C" NOT NULL,
          document json NOT NULL,
          create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
          PRIMARY KEY (tenant_id, scenario_id)
        )
        """
    )
    enable_tenant_rls("agent", "agents")
    enable_tenant_rls("agent", "scenarios")
