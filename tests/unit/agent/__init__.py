"""Unit tests of the agent service."""
