"""The worker of a benchmark, a process of its own: `python -m bench.worker TARGET`, with the token in GUILDMESH_TOKEN.

One user coroutine a task, through the worker library, as anyone would write it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time

import uvloop
from guildmesh_client.worker import JsonValue, Task, Worker

from bench import payload
from bench.child import Answer, serve

CONCURRENCY = 2_000


class Tally:
    """Which tasks the function was called for."""

    def __init__(self) -> None:
        self._executed: list[str] = []
        self._expected = 0
        self._reached = asyncio.Event()
        self._at = 0.0

    def add(self, task_id: str) -> None:
        """Counts a call."""
        self._executed.append(task_id)
        if len(self._executed) == self._expected:
            self._at = time.monotonic()
            self._reached.set()

    async def handle(self, command: Answer) -> Answer:
        """`clear` forgets; `expect` waits for that many calls since; `count` tells how many there were."""
        if command["do"] == "clear":
            self._executed.clear()
            self._reached.clear()
        elif command["do"] == "expect":
            self._expected = int(command["calls"])
            if len(self._executed) < self._expected:
                self._reached.clear()
                async with asyncio.timeout(float(command["seconds"])):
                    await self._reached.wait()
        return {"calls": len(self._executed), "distinct": len(set(self._executed))}


async def main(target: str, token: str) -> None:
    """Works until standard input ends."""
    tally = Tally()
    worker = Worker(target, metadata=[("authorization", f"Bearer {token}")], concurrency=CONCURRENCY)

    @worker.task(payload.KIND)
    async def echo(task: Task) -> JsonValue:
        tally.add(task.task_id)
        return payload.echo(payload.of(dict(task.context)))

    working = asyncio.create_task(worker.run())
    serving = asyncio.create_task(serve(tally.handle))
    await asyncio.wait({working, serving}, return_when=asyncio.FIRST_COMPLETED)
    worker.stop()
    for each in (serving, working):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(each, 5)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], os.environ["GUILDMESH_TOKEN"]))
