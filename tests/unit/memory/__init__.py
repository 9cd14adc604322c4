"""Unit tests of the memory service."""
