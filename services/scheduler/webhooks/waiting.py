"""What waits for its delivery, in the tables of one lane; every transaction here is void once the lane has another owner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import asyncpg
import structlog

from services.common.db.engine_role import EngineDriver
from services.common.failpoints import fail_point
from services.scheduler.domain.positions import Positions
from services.scheduler.domain.topic_names import ALL_TENANTS, TopicNames

log = structlog.get_logger(__name__)

_HOLD = "SELECT FROM webhook_lanes WHERE lane = $1 AND epoch = $2 FOR UPDATE"
_PLACES = """
SELECT '' AS owner, topic, positions FROM webhook_lanes WHERE lane = $1 AND positions IS NOT NULL
UNION ALL SELECT tenant_id, topic, positions FROM webhook_places WHERE lane = $1
"""
# Those that were with the lane there; who begins at a time has a row.
_STAY_BEHIND = """
INSERT INTO webhook_backlogs (tenant_id, uid, lane, start_time, positions, topic)
SELECT tenant_id, uid, $1, $2, $3, $4 FROM webhooks WHERE $5 IN ('', tenant_id) ON CONFLICT DO NOTHING
"""
_FORGET_PLACE = "DELETE FROM webhook_places WHERE lane = $1 AND tenant_id = $2"
_FORGET_PLACE_OF_ALL = "UPDATE webhook_lanes SET positions = NULL WHERE lane = $1"
_FORGET_PLACES = """
DELETE FROM webhook_places p WHERE lane = $1 AND NOT EXISTS (SELECT FROM webhooks w WHERE w.tenant_id = p.tenant_id)
"""
_BACKLOGS = "SELECT uid::text, start_time, positions, topic FROM webhook_backlogs WHERE lane = $1 AND $2 IN ('', tenant_id)"
_COUNT = "SELECT uid::text, count(*) FROM webhook_deliveries WHERE lane = $1 AND fail_time IS NULL GROUP BY uid"
_IN_LINE = """
SELECT w.uid::text FROM unnest($2::uuid[]) w (uid) WHERE EXISTS (SELECT FROM webhook_lines WHERE lane = $1 AND uid = w.uid)
"""
# Whoever sets a webhook back, or deletes it, waits until this is done, or is done before.
_UNCHANGED = """
SELECT uid::text FROM webhooks w JOIN unnest($1::uuid[], $2::bigint[]) k (uid, generation) USING (uid)
WHERE w.generation = k.generation ORDER BY uid FOR KEY SHARE OF w
"""
_KEEP = "SELECT FROM webhooks WHERE uid = ANY($1::uuid[]) ORDER BY uid FOR KEY SHARE"
_ADD = """
INSERT INTO webhook_deliveries (tenant_id, uid, task_id, number, event, traceparent, lane)
SELECT n.*, $7::smallint FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::int[], $5::bytea[], $6::text[]) n
ON CONFLICT DO NOTHING RETURNING uid::text
"""
_LINE_UP = """
INSERT INTO webhook_lines (tenant_id, uid, task_id, lane, next_time)
SELECT n.*, $4::smallint, clock_timestamp() FROM unnest($1::text[], $2::uuid[], $3::uuid[]) n ON CONFLICT DO NOTHING
"""
_MOVE = """
INSERT INTO webhook_places (lane, topic, positions, tenant_id) VALUES ($1, $2, $3, $4)
ON CONFLICT (lane, tenant_id) DO UPDATE SET topic = EXCLUDED.topic, positions = EXCLUDED.positions
"""
_MOVE_IN_THAT_OF_ALL = "UPDATE webhook_lanes SET topic = $2, positions = $3 WHERE lane = $1"
_SET_BACKLOG = """
INSERT INTO webhook_backlogs (tenant_id, uid, lane, start_time, positions, topic) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (tenant_id, uid, lane) DO UPDATE SET positions = EXCLUDED.positions, topic = EXCLUDED.topic
"""
_END_BACKLOGS = "DELETE FROM webhook_backlogs WHERE lane = $1 AND uid = ANY($2::uuid[])"
_MISSED = "UPDATE webhooks SET missed_time = clock_timestamp() WHERE uid = ANY($1::uuid[])"
_DUE = """
SELECT w.uid::text, l.task_id::text, l.attempts FROM unnest($2::uuid[], $3::int[]) w (uid, free) CROSS JOIN LATERAL (
  SELECT task_id, attempts FROM webhook_lines WHERE lane = $1 AND uid = w.uid AND next_time <= clock_timestamp()
  ORDER BY next_time LIMIT w.free
) l
"""
# The first one is always taken.
_EVENTS = """
SELECT w.uid::text, w.task_id::text, e.number, e.event, e.traceparent
FROM unnest($1::text[], $2::uuid[], $3::uuid[]) w (tenant_id, uid, task_id)
CROSS JOIN LATERAL (
  SELECT number, event, traceparent FROM (
    SELECT number, event, traceparent, sum(octet_length(event)) OVER (ORDER BY number) - octet_length(event) AS before FROM (
      SELECT number, event, traceparent FROM webhook_deliveries d
      WHERE d.tenant_id = w.tenant_id AND d.uid = w.uid AND d.task_id = w.task_id AND fail_time IS NULL ORDER BY number LIMIT $4
    ) first
  ) sized WHERE before < $5 ORDER BY number
) e
"""
_LOCK_LINES = """
SELECT FROM webhook_lines l
JOIN unnest($1::text[], $2::uuid[], $3::uuid[]) t (tenant_id, uid, task_id) USING (tenant_id, uid, task_id)
ORDER BY l.tenant_id, l.uid, l.task_id FOR UPDATE OF l
"""
_DELIVERED = """
DELETE FROM webhook_deliveries d USING unnest($1::text[], $2::uuid[], $3::uuid[], $4::int[]) t (tenant_id, uid, task_id, number)
WHERE d.tenant_id = t.tenant_id AND d.uid = t.uid AND d.task_id = t.task_id AND d.number = t.number AND d.fail_time IS NULL
"""
_GIVE_UP = """
UPDATE webhook_deliveries d
SET fail_time = clock_timestamp(), attempts = t.attempts, status_code = t.status_code, error = t.error
FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::int[], $5::int[], $6::int[], $7::text[])
  t (tenant_id, uid, task_id, number, attempts, status_code, error)
WHERE d.tenant_id = t.tenant_id AND d.uid = t.uid AND d.task_id = t.task_id AND d.number = t.number
"""
_AGAIN = """
UPDATE webhook_lines l SET attempts = t.attempts, next_time = clock_timestamp() + make_interval(secs => t.seconds)
FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::int[], $5::float[]) t (tenant_id, uid, task_id, attempts, seconds)
WHERE l.tenant_id = t.tenant_id AND l.uid = t.uid AND l.task_id = t.task_id
"""
_END_LINES = """
DELETE FROM webhook_lines l USING unnest($1::text[], $2::uuid[], $3::uuid[]) t (tenant_id, uid, task_id)
WHERE l.tenant_id = t.tenant_id AND l.uid = t.uid AND l.task_id = t.task_id AND NOT EXISTS (
  SELECT FROM webhook_deliveries d
  WHERE d.tenant_id = l.tenant_id AND d.uid = l.uid AND d.task_id = l.task_id AND d.fail_time IS NULL
)
"""
_MOST_EVENTS = 16
_MOST_BYTES = 64 << 10
_EVER = datetime(1970, 1, 1, tzinfo=UTC)


class LaneLost(Exception):
    """Another process has the lane."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Where a webhook goes on that is behind its lane, or that a page of the lane has overtaken in part."""

    start_time: datetime
    """events from before it are not delivered."""
    positions: Positions | None
    """None where that time is."""
    topic: str
    """which they are of."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a lane is in a topic."""

    owner: str
    """the tenant whose topic it is, or ALL_TENANTS."""
    topic: str
    positions: Positions


@dataclass(frozen=True, slots=True)
class Wanted:
    """An event that a webhook is to deliver."""

    tenant_id: str
    uid: str
    task_id: str
    number: int
    event: bytes
    traceparent: str


@dataclass(slots=True)
class Page:
    """What one reading of the topic comes to."""

    generations: Mapping[str, int]
    """of the webhooks that it is for, when it was read; it is nothing to one that was set anew since."""
    wanted: Sequence[Wanted] = ()
    place: Place | None = None
    """how far the lane has come; None for where it was."""
    backlogs: Mapping[str, tuple[str, Backlog]] = field(default_factory=dict)
    """where webhooks go on that are not with the lane, with their tenants."""
    with_lane: Collection[str] = ()
    """webhooks that are with the lane from now on."""
    missed: Collection[str] = ()
    """webhooks that were passed over by what the topic no longer keeps."""


@dataclass(slots=True)
class Line:
    """A task with events that wait, the first of them at hand."""

    uid: str
    task_id: str
    attempts: int
    events: list[tuple[int, bytes, str]]
    """number, serialized TaskEvent and trace context, in their order."""


@dataclass(slots=True)
class Tried:
    """What came of the events of a line."""

    tenant_id: str
    line: Line
    taken: list[int]
    """numbers that the receiver has."""
    attempts: int = 0
    """how often the next one was refused."""
    pause: float = 0.0
    """seconds until it is tried."""
    given_up: tuple[int, int, str] | None = None
    """number, HTTP status and error of one that is not tried again."""


class Waiting:
    """The tables of one lane under one epoch."""

    def __init__(self, database: EngineDriver, lane: int, epoch: int, names: TopicNames) -> None:
        """`names` says which topics events come on."""
        self._database = database
        self._lane = lane
        self._epoch = epoch
        self._names = names
        # Many readings of a lane would wait for its row, each with a connection.
        self._alone = asyncio.Lock()

    async def open(self) -> dict[str, int]:
        """How many events wait of each webhook. Those that were with the lane in a topic of before stay behind there.

        Raises:
            LaneLost, DependencyUnavailable.
        """
        async with self._transaction() as connection:
            for owner, topic, positions in await connection.fetch(_PLACES, self._lane):
                topic = topic or self._names.events
                if self._names.is_read(owner, topic):
                    continue
                log.info("topic_changed", lane=self._lane, topic=topic)
                await connection.execute(_STAY_BEHIND, self._lane, _EVER, positions, topic, owner)
                if owner == ALL_TENANTS:
                    await connection.execute(_FORGET_PLACE_OF_ALL, self._lane)
                else:
                    await connection.execute(_FORGET_PLACE, self._lane, owner)
            await connection.execute(_FORGET_PLACES, self._lane)
            return dict(await connection.fetch(_COUNT, self._lane))

    async def place(self, owner: str) -> Positions | None:
        """How far the lane has come in a topic that is read, None: nobody was there before."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(_PLACES, self._lane)
        return next((tuple(row["positions"]) for row in rows if row["owner"] == owner), None)

    async def counts(self) -> dict[str, int]:
        """How many events wait of each webhook."""
        async with self._database.transaction() as connection:
            return dict(await connection.fetch(_COUNT, self._lane))

    async def backlogs(self, owner: str) -> dict[str, Backlog]:
        """The webhooks that are not with the lane in the topic of an owner."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(_BACKLOGS, self._lane, owner)
        return {
            uid: Backlog(start, None if positions is None else tuple(positions), topic or self._names.events)
            for uid, start, positions, topic in rows
        }

    async def store(self, page: Page) -> dict[str, int]:
        """Takes a page over, all of it or nothing; gives how many events were added for each webhook."""
        async with self._transaction() as connection:
            unchanged = await self._unchanged(connection, page.generations)
            wanted = [each for each in page.wanted if each.uid in unchanged]
            added = await self._add(connection, wanted) if wanted else []
            if page.place is not None:
                owner, topic, positions = page.place.owner, page.place.topic, page.place.positions
                if owner == ALL_TENANTS:
                    await connection.execute(_MOVE_IN_THAT_OF_ALL, self._lane, topic, positions)
                else:
                    await connection.execute(_MOVE, self._lane, topic, positions, owner)
            for uid, (tenant_id, backlog) in page.backlogs.items():
                if uid in unchanged:
                    place = backlog.start_time, backlog.positions, backlog.topic
                    await connection.execute(_SET_BACKLOG, tenant_id, uid, self._lane, *place)
            joined = [uid for uid in page.with_lane if uid in unchanged]
            if joined:
                await connection.execute(_END_BACKLOGS, self._lane, joined)
            if page.missed:
                await connection.execute(_MISSED, sorted(page.missed))
            await fail_point("webhooks.route.before_commit", connection.terminate)
        await fail_point("webhooks.route.after_commit")
        counts: dict[str, int] = {}
        for uid in added:
            counts[uid] = counts.get(uid, 0) + 1
        return counts

    async def in_line(self, uids: Sequence[str]) -> set[str]:
        """Which of these webhooks have something that waits."""
        async with self._database.transaction() as connection:
            return {uid for (uid,) in await connection.fetch(_IN_LINE, self._lane, list(uids))}

    async def due(self, free: Mapping[str, int], busy: Collection[tuple[str, str]]) -> list[Line]:
        """Lines whose time has come, those that waited longest first, so many of each webhook besides those that are busy."""
        beside = dict.fromkeys(free, 0)
        for uid, _ in busy:
            if uid in beside:
                beside[uid] += 1
        uids = list(free)
        async with self._database.transaction(one_plan=True) as connection:
            rows = await connection.fetch(_DUE, self._lane, uids, [free[uid] + beside[uid] for uid in uids])
        left = dict(free)
        found = []
        for uid, task_id, attempts in rows:
            if (uid, task_id) not in busy and left[uid] > 0:
                left[uid] -= 1
                found.append(Line(uid, task_id, attempts, []))
        return found

    async def fill(self, lines: Sequence[Line], tenants: Mapping[str, str]) -> None:
        """Reads the first events of lines."""
        keys = {(line.uid, line.task_id): line for line in lines}
        arguments = [tenants[line.uid] for line in lines], [line.uid for line in lines], [line.task_id for line in lines]
        async with self._database.transaction(one_plan=True) as connection:
            rows = await connection.fetch(_EVENTS, *arguments, _MOST_EVENTS, _MOST_BYTES)
        for uid, task_id, *event in rows:
            keys[uid, task_id].events.append(tuple(event))

    async def record(self, tried: Sequence[Tried]) -> None:
        """Keeps what came of many lines, all of it or nothing."""
        keys = sorted((each.tenant_id, each.line.uid, each.line.task_id) for each in tried)
        taken = [(each.tenant_id, each.line.uid, each.line.task_id, number) for each in tried for number in each.taken]
        given_up = [
            (each.tenant_id, each.line.uid, each.line.task_id, number, each.attempts, status, error)
            for each in tried
            if each.given_up is not None
            for number, status, error in [each.given_up]
        ]
        again = [
            (each.tenant_id, each.line.uid, each.line.task_id, 0 if each.given_up else each.attempts, each.pause)
            for each in tried
            if each.line.attempts or each.attempts or each.pause
        ]
        async with self._transaction(one_plan=True) as connection:
            await connection.execute(_KEEP, sorted({uid for _, uid, _ in keys}))
            # Who adds to a line locks it, too: what was added before is seen below, and what comes after makes a new line.
            await connection.execute(_LOCK_LINES, *_columns(keys, 3))
            if taken:
                await connection.execute(_DELIVERED, *_columns(taken, 4))
            if given_up:
                await connection.execute(_GIVE_UP, *_columns(given_up, 7))
            if again:
                await connection.execute(_AGAIN, *_columns(again, 5))
            await connection.execute(_END_LINES, *_columns(keys, 3))
            await fail_point("webhooks.record.before_commit", connection.terminate)
        await fail_point("webhooks.record.after_commit")

    @asynccontextmanager
    async def _transaction(self, *, one_plan: bool = False) -> AsyncIterator[asyncpg.Connection]:
        """Keeps others from the lane until its end; raises LaneLost."""
        async with self._alone, self._database.transaction(one_plan=one_plan) as connection:
            if await connection.fetchrow(_HOLD, self._lane, self._epoch) is None:
                raise LaneLost
            yield connection

    async def _unchanged(self, connection: asyncpg.Connection, generations: Mapping[str, int]) -> set[str]:
        """Those of the webhooks that are there and where they were; nobody changes that until the end of the transaction."""
        if not generations:
            return set()
        uids = sorted(generations)
        return {uid for (uid,) in await connection.fetch(_UNCHANGED, uids, [generations[uid] for uid in uids])}

    async def _add(self, connection: asyncpg.Connection, wanted: Sequence[Wanted]) -> list[str]:
        rows = [(each.tenant_id, each.uid, each.task_id, each.number, each.event, each.traceparent) for each in wanted]
        added = [uid for (uid,) in await connection.fetch(_ADD, *_columns(rows, 6), self._lane)]
        lines = sorted({(each.tenant_id, each.uid, each.task_id) for each in wanted})
        await connection.execute(_LINE_UP, *_columns(lines, 3), self._lane)
        return added


def at_lane(place: Place) -> Backlog:
    """Where a webhook goes on that was with its lane."""
    return Backlog(_EVER, place.positions, place.topic)


def _columns(rows: Sequence[Sequence[object]], width: int) -> list[list[object]]:
    return [[row[place] for row in rows] for place in range(width)]
