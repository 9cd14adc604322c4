"""Agents and scenarios in PostgreSQL, schema `agent`."""
