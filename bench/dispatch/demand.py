"""A replica's demand on the owners: which of its free slots it offers to whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncpg

from bench.dispatch.connection import connect, stop
from bench.dispatch.link import Link, Message
from bench.dispatch.owner import Owner, Refused, start_granted
from bench.dispatch.statements import BY_KEY, Lease

_LOOK_SECONDS = 0.02


class Demand:
    """The links of one replica to all owners; leases come back by `arrived`."""

    def __init__(self, owner: Owner, url: str, name: str, arrived: Callable[[list[Lease]], None]) -> None:
        self.free = 0
        """slots that are neither busy nor offered."""
        self.refused = 0
        self.transactions = 0
        self._owner, self._url, self._name, self._arrived = owner, url, name, arrived
        self._links: dict[str, Link] = {}
        self._granted: list[tuple[Link, Message]] = []
        self._something = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Begins to follow who owns what."""
        self._connection = await connect(self._url, BY_KEY)
        self._owner.changed = self._follow
        self._tasks = [asyncio.create_task(each()) for each in (self._start, self._balance)]

    async def close(self) -> None:
        """Ends all links."""
        for link in self._links.values():
            link.close()
        await stop(self._tasks)

    def offer(self) -> None:
        """Offers what is free: to one owner all, to several a part each, those first that had filled what they were offered."""
        if self.free <= 0 or not self._links:
            return
        links = [link for link in self._links.values() if link.outstanding == 0] or list(self._links.values())
        part = -(-self.free // len(links))
        for link in links:
            want = min(part, self.free)
            if want > 0:
                self.free -= want
                link.tell(want=want)

    def done(self, lease: Lease) -> None:
        """A task has ended."""
        link = self._links.get(self._owner.addresses.get(self._owner.scope(lease.queue), ""))
        if link is not None:
            link.tell(done=lease.task_id)

    def _follow(self) -> None:
        addresses = set(self._owner.addresses.values())
        for address in addresses - set(self._links):
            link = self._links[address] = Link(address, self._received, self._lost)
            link.connect(self._owner.join if address == self._owner.address else None)
        for address in set(self._links) - addresses:
            # Whoever owns nothing any more; what it may still send comes too late and is refused by its epoch.
            link = self._links.pop(address)
            link.close()
            self.free += link.outstanding
        self._owner.dead &= addresses
        self.offer()

    def _lost(self, link: Link) -> None:
        if self._links.get(link.address) is link:
            del self._links[link.address]
            self._owner.dead.add(link.address)
            self.free += link.outstanding
            self.offer()

    def _received(self, link: Link, message: Message) -> None:
        if self._links.get(link.address) is not link:
            return
        link.outstanding -= message.want + len(message.grants) + len(message.leases)
        self.free += message.want
        if message.leases:
            self._arrived(message.leases)
        if message.grants:
            self._granted.append((link, message))
            self._something.set()

    async def _start(self) -> None:
        """Starts what was granted, all that has come meanwhile in one transaction."""
        while True:
            await self._something.wait()
            self._something.clear()
            granted, self._granted = self._granted, []
            grants = [grant for _, message in granted for grant in message.grants]
            epochs: dict[int, int] = {}
            for _, message in granted:
                # Of two epochs of one scope only the newer can hold.
                epochs |= {scope: max(epoch, epochs.get(scope, 0)) for scope, epoch in message.epochs.items()}
            self.transactions += 1
            try:
                leases = await start_granted(self._connection, grants, epochs, self._name)
            except (Refused, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                self.refused += isinstance(error, Refused)
                self.free += len(grants)
                for link, _ in granted:
                    link.tell(started=True)
                if not isinstance(error, Refused):
                    await asyncio.sleep(0.1)
                    self._connection = await connect(self._url, BY_KEY)
                self.offer()
                continue
            self.free += len(grants) - len(leases)
            started = {lease.task_id for lease in leases}
            for link, message in granted:
                missing = tuple(task_id for task_id, _ in message.grants if task_id not in started)
                link.tell(started=True, missing=missing)
            self._arrived(leases)

    async def _balance(self) -> None:
        """Asks back what an owner leaves unused while another has used all."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            links = list(self._links.values())
            if len(links) > 1 and any(link.outstanding == 0 for link in links):
                for link in links:
                    if link.outstanding and link.quiet:
                        link.tell(want=-link.outstanding)
            for link in links:
                link.quiet = True
            self.offer()
