"""The worker of a benchmark, a process of its own: `python -m bench.worker TARGET`, with the token in GUILDMESH_TOKEN.

One user coroutine a task, through the worker library, as anyone would write it. With a folder of certificates as its second
argument it works for every tenant, as the mesh's own agent workers do: TARGET is a scheduler then, and whoever has the
certificate needs no token.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path

import uvloop
from guildmesh_client.worker import JsonValue, Task, Worker

from bench import payload
from bench.child import Answer, serve
from services.common.grpcx.channel import secure_channel

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


def of_tenant(target: str, token: str) -> tuple[Worker, str]:
    """A worker of the tenant that the token is of, and the kind of task it runs."""
    return Worker(target, metadata=[("authorization", f"Bearer {token}")], concurrency=CONCURRENCY), payload.KIND


def of_all(target: str, tls_dir: Path) -> tuple[Worker, str]:
    """A worker of every tenant."""
    return Worker(
        channel=secure_channel(target, "scheduler", tls_dir), concurrency=CONCURRENCY, all_tenants=True
    ), payload.KIND_OF_ALL


async def main(worker: Worker, kind: str) -> None:
    """Works until standard input ends."""
    tally = Tally()

    @worker.task(kind)
    async def echo(task: Task) -> JsonValue:
        tally.add(task.task_id)
        if seconds := task.context.get("seconds"):
            await asyncio.sleep(float(str(seconds)))
        return payload.echo(payload.of(dict(task.context)))

    working = asyncio.create_task(worker.run())
    serving = asyncio.create_task(serve(tally.handle))
    await asyncio.wait({working, serving}, return_when=asyncio.FIRST_COMPLETED)
    worker.stop()
    for each in (serving, working):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(each, 5)


async def _main(target: str, *tls_dir: str) -> None:
    # A channel belongs to the event loop in which it is made.
    await main(*(of_all(target, Path(tls_dir[0])) if tls_dir else of_tenant(target, os.environ["GUILDMESH_TOKEN"])))


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
