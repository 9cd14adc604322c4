"""Alembic migrations of the schema `tool`: `python -m services.tool migrate`."""
