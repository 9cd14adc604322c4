"""Logs as in a process of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from services.common.telemetry.logs import configure_logs

NOISY = ("aiokafka", "asyncio", "httpx", "urllib3", "alembic")


@contextmanager
def configured() -> Iterator[None]:
    """As in a process of its own; within a test, since pytest adds handlers of its own before each."""
    root = logging.getLogger()
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in (*NOISY, None)}
    before = structlog.get_config()
    configure_logs("scheduler")
    try:
        yield
    finally:
        root.handlers[:] = handlers
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        structlog.configure(**before)
