"""Tenants, users and signing keys."""

from alembic import op

from services.common.db.migrations import create_schema_and_roles, enable_tenant_rls, grant

revision = "identity_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the first tables of identity."""
    create_schema_and_roles("identity")
    op.execute(
        """
        CREATE TABLE identity.tenants (
          tenant_id text COLLATE "C" PRIMARY KEY CHECK (tenant_id ~ '^[a-z][a-z0-9-]{0,62}$'),
          display_name text NOT NULL,
          create_time timestamptz NOT NULL DEFAULT clock_timestamp()
        )
        """
    )
    op.execute(
        """
        CREATE TABLE identity.users (
          tenant_id text COLLATE "C" NOT NULL REFERENCES identity.tenants,
          username text COLLATE "C" NOT NULL CHECK (username ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
          email text NOT NULL DEFAULT '',
          roles text[] NOT NULL,
          active boolean NOT NULL DEFAULT true,
          password_hash text NOT NULL,
          create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
          PRIMARY KEY (tenant_id, username)
        )
        """
    )
    # Names are unique in the whole mesh, because a login names no tenant; 'Ada' and 'ada' would be taken for one another.
    op.execute("CREATE UNIQUE INDEX users_name_in_mesh ON identity.users (lower(username))")
    op.execute(
        """
        CREATE TABLE identity.signing_keys (
          key_id text PRIMARY KEY,
          x text NOT NULL,
          y text NOT NULL,
          sealed_private_key bytea NOT NULL,
          activate_time timestamptz NOT NULL
        )
        """
    )
    enable_tenant_rls("identity", "tenants")
    enable_tenant_rls("identity", "users")
    # Only the engine role makes tenants; a caller's transaction may at most see its own.
    op.execute("REVOKE INSERT, UPDATE, DELETE ON identity.tenants FROM identity_api")
    # Keys belong to no tenant: the api role has nothing to do with them.
    grant("identity", "signing_keys", "engine", "SELECT, INSERT, UPDATE, DELETE")


def downgrade() -> None:
    """Removes what upgrade made."""
    op.execute("DROP TABLE identity.signing_keys, identity.users, identity.tenants")
