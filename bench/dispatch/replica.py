"""One replica of a prototype with its workers: `python -m bench.dispatch.replica`, asked by lines of JSON."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

import asyncpg
import grpc.aio
import uvloop

from bench.child import Answer, serve
from bench.dispatch import link
from bench.dispatch.connection import connect, stop
from bench.dispatch.demand import Demand
from bench.dispatch.loads import LOADS, Load
from bench.dispatch.owner import OWNED, Owner, scopes_of
from bench.dispatch.race import PLANNING, Race
from bench.dispatch.statements import BY_KEY, Lease, complete, expire

_MOST_LEASES = 500
_MOST_COMPLETIONS = 1000
_LOOK_SECONDS = 0.02
"""after which a race looks again when it found less than it has slots: nobody tells it that another replica made room."""
_SWEEP_SECONDS = 0.25


class Replica:
    """Serves workers that run each task for its length."""

    def __init__(self, name: str, url: str, load: Load, prototype: str) -> None:
        self._name, self._url, self._load, self._prototype = name, url, load, prototype
        self._done: list[tuple[Lease, float]] = []
        self._ended = asyncio.Event()
        self._freed = asyncio.Event()
        self._free = 0
        self._race: Race | None = None
        self._demand: Demand | None = None
        self._owner: Owner | None = None
        self._server: grpc.aio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Connects; has no workers yet."""
        self._completing = await connect(self._url, BY_KEY)
        self._sweeping = await connect(self._url, "SET enable_seqscan = off")
        if self._prototype in OWNED:
            scopes, direct = scopes_of(self._prototype, self._load), self._prototype == "grants"
            self._owner = Owner(self._url, self._name, self._load, scopes, direct=direct)
            self._server, self._owner.address = await link.serve(self._owner.join, self._owner.leave)
            self._demand = Demand(self._owner, self._url, self._name, self._arrived)
            await self._demand.open()
            await self._owner.open()
        else:
            self._leasing = await connect(self._url, PLANNING)
            self._tasks.append(asyncio.create_task(self._lease()))
        self._tasks += [asyncio.create_task(each()) for each in (self._complete, self._sweep)]

    def go(self) -> None:
        """The workers come."""
        if self._demand is not None:
            self._demand.free = self._load.slots
            self._demand.offer()
        else:
            self._free = self._load.slots
            self._freed.set()

    async def close(self) -> Answer:
        """Ends without waiting for what runs; tells what it has seen."""
        await stop(self._tasks)
        refused, rebuilds = 0, []
        transactions = 0 if self._race is None else self._race.transactions
        if self._demand is not None and self._owner is not None:
            await self._demand.close()
            await self._owner.close()
            refused, rebuilds = self._owner.refused + self._demand.refused, self._owner.rebuilds
            transactions = self._owner.transactions + self._demand.transactions
        if self._server is not None:
            await self._server.stop(0)
        return {"refused": refused, "rebuilds": rebuilds, "transactions": transactions}

    def _arrived(self, leases: Sequence[Lease]) -> None:
        loop = asyncio.get_running_loop()
        for lease in leases:
            loop.call_later(lease.seconds, self._end, lease, loop.time())

    def _end(self, lease: Lease, begun: float) -> None:
        self._done.append((lease, asyncio.get_running_loop().time() - begun))
        self._ended.set()

    async def _lease(self) -> None:
        make = {"today": (True, True), "race": (False, True), "unlocked": (False, False)}
        today, locked = make[self._prototype]
        self._race = Race(self._leasing, self._load, self._name, today=today, locked=locked)
        while True:
            await self._freed.wait()
            self._freed.clear()
            slots = min(self._free, _MOST_LEASES)
            if slots <= 0:
                continue
            try:
                leases = await self._race.lease(slots)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await asyncio.sleep(0.1)
                self._leasing = await connect(self._url, PLANNING)
                self._race = Race(self._leasing, self._load, self._name, today=today, locked=locked)
                self._freed.set()
                continue
            self._free -= len(leases)
            self._arrived(leases)
            if len(leases) < slots:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._freed.wait(), _LOOK_SECONDS)
            self._freed.set()

    async def _complete(self) -> None:
        while True:
            await self._ended.wait()
            self._ended.clear()
            done, self._done = self._done[:_MOST_COMPLETIONS], self._done[_MOST_COMPLETIONS:]
            if self._done:
                self._ended.set()
            try:
                async with self._completing.transaction():
                    ended = await complete(self._completing, [lease for lease, _ in done])
                    if self._race is not None and self._load.shares:
                        await self._race.use(self._completing, done)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                # As a worker would: it tells again; what was told already is not there any more.
                self._done += done
                await asyncio.sleep(0.1)
                self._completing = await connect(self._url, BY_KEY)
                self._ended.set()
                continue
            if self._demand is not None:
                self._demand.free += len(done)
                for lease, _ in done:
                    # Of an attempt that was over the owner must not hear: the task may be running again.
                    if lease.task_id in ended:
                        self._demand.done(lease)
                self._demand.offer()
            else:
                self._free += len(done)
                self._freed.set()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                await expire(self._sweeping)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await asyncio.sleep(0.1)
                self._sweeping = await connect(self._url, "SET enable_seqscan = off")


async def main() -> None:
    """Handles commands until standard input ends."""
    replica: Replica | None = None

    async def handle(command: Answer) -> Answer:
        nonlocal replica
        if command["do"] == "open":
            load = LOADS[command["load"]]
            replica = Replica(command["name"], command["url"], load, command["prototype"])
            await replica.open()
        elif replica is not None and command["do"] == "go":
            replica.go()
        elif replica is not None and command["do"] == "close":
            return await replica.close()
        return {}

    await serve(handle)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    uvloop.run(main())
