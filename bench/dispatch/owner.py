"""An owner of queues: elected by rows, fenced by their epochs, deciding from memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Sequence

import asyncpg

from bench.dispatch.connection import LEASE_SECONDS, connect, stop
from bench.dispatch.link import Message, Peer
from bench.dispatch.loads import Load
from bench.dispatch.ready import Head, Ready
from bench.dispatch.statements import BY_KEY, COLUMNS, Lease, start

REPLICAS = 3
_MOST = 500
_PATIENCE_SECONDS = 0.2
_LEAST = 20
"""tasks of which no two replicas get a part: a transaction each would cost more than it brings."""
_RENEW = f"""
UPDATE dispatch_owners SET lease_expires = clock_timestamp() + interval '{LEASE_SECONDS} s' WHERE owner = $1 RETURNING scope
"""
_TAKE_OVER = f"""
WITH free AS (
  SELECT scope FROM dispatch_owners
  WHERE owner IS NULL OR (owner <> $1 AND (lease_expires < clock_timestamp() OR address = ANY($4::text[])))
  ORDER BY owner IS NULL, scope LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE dispatch_owners o SET owner = $1, address = $2, lease_expires = clock_timestamp() + interval '{LEASE_SECONDS} s'
FROM free WHERE o.scope = free.scope RETURNING o.scope
"""
# Waits for every start that is under way by an older epoch; from the commit on no other can begin.
_FENCE = """
UPDATE dispatch_epochs e SET epoch = e.epoch + 1 FROM dispatch_owners o
WHERE o.scope = e.scope AND o.owner = $1 RETURNING e.scope, e.epoch
"""
_HEADS = """
SELECT task_id::text, tenant_id, queue, concurrency_key, priority, position, state,
  extract(epoch FROM clock_timestamp() - start_time)::float8 AS seconds
FROM tasks WHERE queue = ANY($1) AND state IN (1, 2)
"""
_RUNNING = "SELECT task_id::text, state FROM tasks WHERE task_id = ANY($1)"
_HELD = """
SELECT e.scope FROM dispatch_epochs e, unnest($1::int[], $2::bigint[]) AS c (scope, epoch)
WHERE e.scope = c.scope AND e.epoch = c.epoch AND e.scope = ANY($1) ORDER BY 1 FOR SHARE OF e
"""
_PICK = f"SELECT {COLUMNS} FROM tasks t WHERE t.task_id = ANY($1::uuid[]) AND t.state = 1"


OWNED = ("owner", "single", "grants")
"""the prototypes that have owners."""
log = logging.getLogger(__name__)


class Refused(Exception):
    """The epoch by which something was to be started is over."""


def scopes_of(prototype: str, load: Load) -> int:
    """How many scopes there are to own."""
    return len(load.queues) if prototype == "owner" else 1


async def start_granted(
    connection: asyncpg.Connection, grants: Sequence[tuple[str, int]], epochs: dict[int, int], worker: str
) -> list[Lease]:
    """Starts what was decided, in a transaction that checks the epochs and keeps them until it ends.

    Raises:
        Refused: another has taken over since; nothing is started.
    """
    scopes = sorted({scope for _, scope in grants})
    async with connection.transaction():
        held = await connection.fetch(_HELD, scopes, [epochs[scope] for scope in scopes])
        if len(held) < len(scopes):
            raise Refused
        rows = await connection.fetch(_PICK, [task_id for task_id, _ in grants])
        return await start(connection, rows, worker) if rows else []


class Owner:
    """One replica's part in owning; it may own any number of scopes, also none."""

    def __init__(self, url: str, name: str, load: Load, scopes: int, *, direct: bool) -> None:
        """`direct`: grants are sent to the replica that has the worker, which starts the task itself."""
        self.address = ""
        self.addresses: dict[int, str] = {}
        """who owns each scope, as far as this replica has heard."""
        self.dead: set[str] = set()
        """addresses that did not answer; only how soon they are replaced depends on it."""
        self.changed: Callable[[], None] = lambda: None
        self.refused = 0
        self.transactions = 0
        self.rebuilds: list[float] = []
        self._url, self._name, self._load, self._scopes, self._direct = url, name, load, scopes, direct
        self._numbers = {queue: number % scopes for number, queue in enumerate(load.queues)}
        self._owned: set[int] = set()
        self._epochs: dict[int, int] = {}
        self._ready = Ready({}, {})
        self._peers: list[Peer] = []
        self._something = asyncio.Event()
        self._told = asyncio.Event()
        self._late: list[str] = []
        self._news: list[str] = []
        self._broken = False
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Begins to stand for election."""
        self._electing = await connect(self._url, "")
        self._reading = await connect(self._url, "SET enable_seqscan = off")
        self._starting = await connect(self._url, BY_KEY)
        await self._reading.add_listener("dispatch", self._hear)
        self._tasks = [asyncio.create_task(each()) for each in (self._elect, self._decide, self._look)]

    async def close(self) -> None:
        """Stops."""
        await stop(self._tasks)

    def scope(self, queue: str) -> int:
        """The scope of a queue."""
        return self._numbers[queue]

    def join(self, peer: Peer) -> Callable[[Message], None]:
        """A replica comes; gives what takes its messages."""
        self._peers.append(peer)

        def take(message: Message) -> None:
            peer.want += message.want
            if message.started:
                peer.busy_until = 0.0
            if message.want < 0:
                back = -message.want + min(0, peer.want)
                peer.want = max(0, peer.want)
                peer.send(Message(want=back))
            for task_id in (*message.done, *message.missing):
                self._ready.finish(task_id)
            self._late += message.done
            self._something.set()

        return take

    def leave(self, peer: Peer) -> None:
        """A replica goes; whether it has started what it was granted only the table knows."""
        self._peers.remove(peer)
        self._broken = self._broken or self._direct
        self._told.set()

    def _hear(self, *notification: object) -> None:
        self._news.append(str(notification[-1]))
        self._told.set()

    async def _elect(self) -> None:
        first = True
        while True:
            try:
                owned = {row[0] for row in await self._electing.fetch(_RENEW, self._name)}
                most = -(-self._scopes // REPLICAS) - len(owned) if first else self._scopes
                taken = await self._electing.fetch(_TAKE_OVER, self._name, self.address, max(0, most), list(self.dead))
                first = False
                owned |= {row[0] for row in taken}
                if owned != self._owned:
                    self._owned, self._broken = owned, True
                    self._told.set()
                rows = await self._electing.fetch("SELECT scope, address FROM dispatch_owners WHERE owner IS NOT NULL")
                self.addresses = {row[0]: row[1] for row in rows}
                self.changed()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                # Another connection: the server ends one whose transaction was stopped for long.
                await asyncio.sleep(0.1)
                self._electing = await connect(self._url, "")
            await asyncio.sleep(0.05 if not self.addresses else 0.25)

    async def _look(self) -> None:
        """Keeps what is in memory true: new tasks when told, everything after a change of owners, what has long run by and by."""
        checked = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), 0.2)
            self._told.clear()
            try:
                if self._broken:
                    await self._rebuild()
                self._take_in_news()
                self._ready.tick()
                if time.monotonic() > checked + 1:
                    await self._reconcile(time.monotonic() - LEASE_SECONDS)
                    checked = time.monotonic()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await asyncio.sleep(0.1)
                self._reading = await connect(self._url, "SET enable_seqscan = off")
                await self._reading.add_listener("dispatch", self._hear)
                self._broken = True

    async def _rebuild(self) -> None:
        begun = time.monotonic()
        self._broken, self._epochs = False, {}
        epochs = {row[0]: row[1] for row in await self._reading.fetch(_FENCE, self._name)}
        self._ready = Ready(self._load.queues, self._load.weights)
        self._late = []
        self._epochs = {}
        if epochs:
            rows = await self._reading.fetch(_HEADS, [queue for queue, scope in self._numbers.items() if scope in epochs])
            for row in rows:
                if row["state"] == 2:
                    self._ready.add_running(Head(*row[:6]), row["seconds"])
            self._ready.add(Head(*row[:6]) for row in rows if row["state"] == 1)
            for task_id in self._late:
                self._ready.finish(task_id)
            self.rebuilds.append(time.monotonic() - begun)
        self._epochs = epochs
        self._something.set()

    def _take_in_news(self) -> None:
        news, self._news = self._news, []
        heads = (Head(*values) for told in news for values in json.loads(told))
        self._ready.add(head for head in heads if self._numbers[head.queue] in self._epochs)
        self._something.set()

    async def _reconcile(self, before: float) -> None:
        """Looks at what has run for long: a message that was lost must not keep a slot for ever."""
        self._late = []
        ids = [task_id for task_id, head in self._ready.running.items() if head.started < before]
        if ids:
            states = {row[0]: row[1] for row in await self._reading.fetch(_RUNNING, ids)}
            for task_id in ids:
                if task_id not in states:
                    self._ready.finish(task_id)
            # It waits again, or was granted and never started: only behind a new epoch that is certain.
            self._broken = self._broken or 1 in states.values()
            self._something.set()

    async def _decide(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            # What may start while others begin goes out together after that, so batches grow with the load.
            now = time.monotonic()
            wanting = [peer for peer in self._peers if peer.want > 0]
            if any(peer.busy_until > now for peer in self._peers) or not wanting or not self._epochs:
                continue
            ready = self._ready
            heads = ready.take(min(_MOST, sum(peer.want for peer in wanting)))
            if not heads:
                continue
            if len(heads) == _MOST:
                self._something.set()
            grants = [(head.task_id, self._numbers[head.queue]) for head in heads]
            if self._direct:
                for peer, part in _dealt(wanting, grants):
                    peer.busy_until = now + _PATIENCE_SECONDS
                    peer.send(Message(grants=part, epochs={scope: self._epochs[scope] for _, scope in part}))
                # Those who are asked answer before they are asked again.
                await asyncio.sleep(0)
                continue
            epochs = self._epochs
            self.transactions += 1
            try:
                leases = await start_granted(self._starting, grants, epochs, self._name)
            except Refused:
                self.refused += 1
                if epochs is self._epochs:
                    # By another; it will be known by whom when the rows are read again.
                    self._owned, self._epochs = set(), {}
                continue
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                log.warning("starts failed: %r", error)
                self._broken = True
                self._told.set()
                await asyncio.sleep(0.1)
                self._starting = await connect(self._url, BY_KEY)
                continue
            started = {lease.task_id for lease in leases}
            for head in heads:
                if head.task_id not in started:
                    ready.finish(head.task_id)
            for peer, dealt in _dealt([peer for peer in self._peers if peer.want > 0], leases):
                peer.send(Message(leases=dealt))


def _dealt(peers: Sequence[Peer], items: list) -> list[tuple[Peer, list]]:  # type: ignore[type-arg]
    """Gives the items to those who want most, few to one alone; what nobody wants any more is left to the end of its lease."""
    parts, place = [], 0
    for peer in sorted(peers, key=lambda peer: -peer.want):
        part = min(peer.want, max(_LEAST, -(-len(items) // REPLICAS)), len(items) - place)
        if part:
            parts.append((peer, items[place : place + part]))
            peer.want -= part
            place += part
    return parts
