"""Conversations, messages and memories."""

from alembic import op

from services.common.db.migrations import create_schema_and_roles, enable_tenant_rls

revision = "memory_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the first tables of memory."""
    op.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
    create_schema_and_roles("memory")
    op.execute(
        """
        CREATE TABLE memory.conversations (
          tenant_id text COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
          conversation_id uuid NOT NULL,
          username text COLLATE "C" NOT NULL,
          title text NOT NULL,
          last_number integer NOT NULL DEFAULT 0,
          create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
          update_time timestamptz NOT NULL DEFAULT clock_timestamp(),
          PRIMARY KEY (tenant_id, conversation_id)
        )
        """
    )
    op.execute("CREATE INDEX conversations_of_user ON memory.conversations (tenant_id, username, conversation_id)")
    op.execute(
        """
        CREATE TABLE memory.messages (
          tenant_id text COLLATE "C" NOT NULL,
          conversation_id uuid NOT NULL,
          number integer NOT NULL CHECK (number > 0),
          role text NOT NULL,
          content text NOT NULL,
          metadata jsonb NOT NULL,
          create_time timestamptz NOT NULL,
          PRIMARY KEY (tenant_id, conversation_id, number),
          FOREIGN KEY (tenant_id, conversation_id) REFERENCES memory.conversations ON DELETE CASCADE
        )
        """
    )
    op.execute(
        """
        CREATE TABLE memory.memories (
          tenant_id text COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
          memory_id uuid NOT NULL,
          owner text COLLATE "C" NOT NULL,
          content text NOT NULL,
          metadata jsonb NOT NULL,
          -- PLAIN keeps the vector in the row, where a scan reads it without a second look-up; long contents move out instead.
          embedding public.vector(384) STORAGE PLAIN NOT NULL,
          request_id text,
          request_hash bytea,
          create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
          PRIMARY KEY (tenant_id, memory_id)
        )
        """
    )
    op.execute("CREATE INDEX memories_of_owner ON memory.memories (tenant_id, owner, memory_id)")
    op.execute("CREATE UNIQUE INDEX memories_by_request ON memory.memories (tenant_id, request_id) WHERE request_id IS NOT NULL")
    for table in ("conversations", "messages", "memories"):
        enable_tenant_rls("memory", table)


def downgrade() -> None:
    """Removes what upgrade made; the extension may serve others."""
    op.execute("DROP TABLE memory.memories, memory.messages, memory.conversations")
