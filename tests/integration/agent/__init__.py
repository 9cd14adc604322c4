"""Integration tests of the agent service."""
