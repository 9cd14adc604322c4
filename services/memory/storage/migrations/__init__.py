"""Alembic migrations of the schema `memory`: `python -m services.memory migrate`."""
