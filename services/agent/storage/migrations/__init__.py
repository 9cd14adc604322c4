"""Migrations of the schema `agent`."""
