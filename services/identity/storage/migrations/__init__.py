"""Alembic migrations of the schema `identity`: `python -m services.identity migrate`."""
