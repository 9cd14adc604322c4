"""Why a benchmark gives no figure."""

from __future__ import annotations


class BenchFailed(Exception):
    """Something did not work, or did not do what it was asked; the message is for people."""
