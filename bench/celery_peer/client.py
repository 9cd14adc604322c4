"""Submits to Celery, a process of its own: `python -m bench.celery_peer.client`."""

from __future__ import annotations

import asyncio
import time

from celery import group  # type: ignore[import-not-found,import-untyped,unused-ignore]

from bench import payload
from bench.celery_peer.app import echo
from bench.child import Answer, serve

_GROUP = 100
# Who waits for results holds them; one that is dropped costs Celery a call to Redis.
_held: list[object] = []


async def handle(command: Answer) -> Answer:
    """`apply` submits one by one, `group` in groups of 100: up to `tasks` tasks for at most `seconds`."""
    # Celery's client blocks; nothing else happens in this process.
    return _submit(command["do"] == "group", int(command["tasks"]), float(command["seconds"]))


def _submit(grouped: bool, tasks: int, seconds: float) -> Answer:
    text = payload.argument()
    _held.clear()
    begun = time.monotonic()
    submitted = 0
    while submitted < tasks and time.monotonic() - begun < seconds:
        if grouped:
            _held.append(group(echo.s(text) for _ in range(_GROUP)).apply_async())
            submitted += _GROUP
        else:
            _held.append(echo.apply_async((text,)))
            submitted += 1
    ended = time.monotonic()
    return {"begun": begun, "ended": ended, "tasks": submitted}


if __name__ == "__main__":
    asyncio.run(serve(handle))
    # While Redis is still there to be told.
    _held.clear()
