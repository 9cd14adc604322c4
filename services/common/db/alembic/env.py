"""Alembic's environment, the same for every service: one schema, one version table in it."""

from alembic import context

configuration = context.config
schema: str = configuration.attributes["schema"]

context.configure(
    connection=configuration.attributes["connection"],
    version_table="alembic_version",
    version_table_schema=schema,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
