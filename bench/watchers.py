"""Many watchers at once, a process of its own: `python -m bench.watchers TARGET`, with the token in GUILDMESH_TOKEN.

Each watches one task of its own through the gateway, as a page in a browser or a program that waits for its result does.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time

import grpc
import uvloop
from guildmesh_client.tasks import TaskClient

from bench import payload
from bench.child import Answer, serve
from bench.report import percentile

_A_CONNECTION = 100
_EVENTS = 3
# Else channels to one target share a connection.
_OWN = [("grpc.use_local_subchannel_pool", 1)]


class Watchers:
    """Streams over as many connections as a hundred each need."""

    def __init__(self, target: str, token: str) -> None:
        """Describes them."""
        self._target = target
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._delays: list[float] = []

    async def handle(self, command: Answer) -> Answer:
        """Creates `watchers` tasks that take up to `seconds` each, watches each, and tells the delays of their ends.

        One of ten watchers reads nothing until its task has long ended.
        """
        watchers, seconds = int(command["watchers"]), float(command["seconds"])
        self._delays.clear()
        begun = time.monotonic()
        channels = [grpc.aio.insecure_channel(self._target, _OWN) for _ in range(-(-watchers // _A_CONNECTION))]
        try:
            clients = [TaskClient(channel, self._metadata, timeout=60.0) for channel in channels]
            chance = random.Random(1)
            async with asyncio.TaskGroup() as group:
                watching = [
                    group.create_task(
                        self._watch(clients[number % len(clients)], chance.uniform(seconds / 2, seconds), slow=number % 10 == 0)
                    )
                    for number in range(watchers)
                ]
        finally:
            await asyncio.gather(*(channel.close() for channel in channels))
        told = [each.result() for each in watching]
        return {
            "exact": told == [_EVENTS] * watchers,
            "watchers": watchers,
            "seconds": time.monotonic() - begun,
            "p50": percentile(self._delays, 0.5),
            "p99": percentile(self._delays, 0.99),
        }

    async def _watch(self, client: TaskClient, seconds: float, *, slow: bool) -> int:
        """How many events came, in order."""
        task_id = await client.create("bench", kind=payload.KIND, context={"payload": "", "seconds": seconds})
        count = 0
        async for event in client.watch(task_id):
            if event.number != count + 1:
                raise RuntimeError(f"event {event.number} came after {count}")
            count = event.number
            if slow and count == 1:
                await asyncio.sleep(2 * seconds)
            elif not slow and count == _EVENTS:
                self._delays.append(time.time() - event.event_time.ToNanoseconds() / 1e9)
        return count


async def main(target: str, token: str) -> None:
    """Serves commands until standard input ends."""
    await serve(Watchers(target, token).handle)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], os.environ["GUILDMESH_TOKEN"]))
