"""The election of the replica that decides, and the way of this process's slots to whoever it is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog

from services.common.errors import DomainError
from services.scheduler.domain.decision import Answer, Link, Message, Owners
from services.scheduler.usecases.decide_starts import DecideStarts, Peer
from services.scheduler.usecases.offer_slots import SlotOffers

log = structlog.get_logger(__name__)

Connect = Callable[[str, Callable[[Link, Answer], None], Callable[[Link], None]], Link]


class LinkWithin:
    """The way to the replica that decides when it is this process: no message goes anywhere."""

    def __init__(self, decide: DecideStarts, received: Callable[[Link, Answer], None]) -> None:
        self._decide = decide
        self._peer = Peer(lambda answer: received(self, answer), here=True)
        decide.join(self._peer)

    def tell(self, message: Message) -> None:
        """Tells it at once."""
        self._decide.take(self._peer, message)

    def close(self) -> None:
        """Ends it."""
        self._decide.leave(self._peer)


class FollowOwner:
    """Stands for election all the time, and follows whoever is elected."""

    def __init__(
        self, name: str, owners: Owners, decide: DecideStarts, offers: SlotOffers, connect: Connect, seconds: float
    ) -> None:
        """Stands every `seconds`; `connect` opens the way to a replica at an address."""
        self._name = name
        self._owners = owners
        self._decide = decide
        self._offers = offers
        self._connect = connect
        self._seconds = seconds
        self._address: asyncio.Future[str] | None = None
        self._owner = ""
        self._link: Link | None = None
        self._dead: set[str] = set()
        self._now = asyncio.Event()

    def reachable(self, address: str) -> None:
        """Says at which address the other replicas reach this one, from when on it stands."""
        future = self._own_address()
        if not future.done():
            future.set_result(address)

    async def run(self) -> None:
        """Stands until cancelled; survives the database being away."""
        address = await asyncio.shield(self._own_address())
        while True:
            self._now.clear()
            try:
                standing = await self._owners.stand(self._name, address, sorted(self._dead))
                self._follow(standing.owner, standing.address)
            except DomainError as error:
                log.warning("election_failed", error=str(error))
            except Exception:
                log.exception("election_failed")
            try:
                pause = self._seconds * random.uniform(0.8, 1.2)  # noqa: S311 - not a secret
                async with asyncio.timeout(pause):
                    await self._now.wait()
            except TimeoutError:
                continue

    async def resign(self) -> None:
        """Leaves the decisions to others, which then need not wait for a lease to end."""
        self._leave()
        self._decide.end()
        try:
            await self._owners.resign(self._name)
        except DomainError as error:
            log.warning("resignation_failed", error=str(error))

    def _follow(self, owner: str, address: str) -> None:
        if owner == self._name:
            # Also when it never was another: the decisions may have found one meanwhile.
            self._decide.begin()
        if owner == self._owner and self._link is not None:
            return
        if owner != self._owner:
            self._dead.clear()
        was, self._owner = self._owner, owner
        self._leave()
        if owner == self._name:
            self._link = LinkWithin(self._decide, self._offers.received)
        else:
            if was == self._name:
                self._decide.end()
            if not owner:
                return
            self._link = self._connect(address, self._offers.received, lambda link: self._lost(link, address))
        self._offers.connected(self._link)

    def _leave(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
            self._offers.lost(link)

    def _lost(self, link: Link, address: str) -> None:
        """Being wrong about a replica that does not answer does no harm: the epoch decides."""
        self._offers.lost(link)
        if self._link is link:
            self._link = None
            self._dead.add(address)
            self._now.set()

    def _own_address(self) -> asyncio.Future[str]:
        if self._address is None:
            self._address = asyncio.get_running_loop().create_future()
        return self._address
