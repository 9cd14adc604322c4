"""What a commit tells the waiting: watchers, workers, the relay. It says where to look; the tables say what happened."""

from __future__ import annotations

import base64
import json
import struct
import uuid
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from services.scheduler.domain.run import Run
from services.scheduler.domain.task import StoredEvent

CHANNEL = "guildmesh_scheduler"
DISPATCH_CHANNEL = "guildmesh_dispatch"
"""of what is decided on: tasks that wait or run no more, for the replica that decides; and of changed queues, for all."""
# PostgreSQL refuses a payload of 8,000 bytes.
_LONGEST = 7900
_MOST_BUCKETS = 1500
_MOST_STOPS = 40
# Of 22 characters each.
_MOST_DECIDED = 350
_OWNER = "@"
"""before the owner of queues that have changed; told by the triggers of `queues` and `decided_queues`."""
_OVER = "!"
"""behind the origin when the tasks have ended."""


@dataclass(slots=True)
class Wake:
    """Where something changed. `None` in a set means anywhere."""

    kinds: set[str] | None = field(default_factory=set)
    """kinds of which a task waits for a worker."""
    buckets: set[int] | None = field(default_factory=set)
    """buckets (see bucket_of) of the tasks with new events."""
    stops: list[tuple[str, int, str]] | None = field(default_factory=list)
    """task, attempt and reason (CANCELLED, TIMEOUT, STALE_ATTEMPT) of runs that a worker must stop."""
    shards: int = 0
    """bits of the shards with new outbox rows."""
    again: int | None = None
    """the lowest position of tasks that wait for a worker again, or had to wait for something else first."""
    decided: list[str] | None = field(default_factory=list)
    """tasks that one replica decides on, which wait now or wait no more; told to others by `encode_decided`."""
    over: list[str] | None = field(default_factory=list)
    """tasks that one replica decides on, which have ended; told to others in the same way."""
    queues: set[str] | None = field(default_factory=set)
    """tenants whose queues have changed, or of whose queues one replica decides now or does no more; `*` for the shared ones;
    told to others by triggers."""
    origin: str = ""
    """process that made the change and has woken its own already; empty for what everybody is to hear."""
    events: list[tuple[tuple[str, str], StoredEvent, Run]] = field(default_factory=list)
    """the new events of the tasks (tenant and id) that someone watches in this process, with their runs; not told to others."""
    counted: bool = False
    """whether this process's dispatcher knows how many tasks wait because of it; not told to others."""

    parents: bool = False
    """whether subtasks have left something for their parents; not told to others."""

    def add(self, other: Wake) -> None:
        """Has another wake of the same commit told with this one."""
        self.kinds = None if self.kinds is None or other.kinds is None else self.kinds | other.kinds
        self.buckets = None if self.buckets is None or other.buckets is None else self.buckets | other.buckets
        self.stops = None if self.stops is None or other.stops is None else self.stops + other.stops
        self.queues = None if self.queues is None or other.queues is None else self.queues | other.queues
        self.decided = None if self.decided is None or other.decided is None else self.decided + other.decided
        self.over = None if self.over is None or other.over is None else self.over + other.over
        self.shards |= other.shards
        self.again = other.again if self.again is None else self.again if other.again is None else min(self.again, other.again)
        self.events += other.events
        self.parents = self.parents or other.parents


def everything() -> Wake:
    """A wake for all, after notifications may have been lost."""
    return Wake(kinds=None, buckets=None, stops=None, shards=0xFFFF, again=0, decided=None, over=None, queues=None)


def bucket_of(task_id: str) -> int:
    """A 16-bit bucket: a thousand tasks fit into one notification, at the price of a few needless looks."""
    return zlib.crc32(task_id.encode()) & 0xFFFF


def encode(wake: Wake) -> str:
    """The payload for NOTIFY; what would be too long becomes "anywhere"."""
    stops = wake.stops if wake.stops is not None and len(wake.stops) <= _MOST_STOPS else None
    buckets = wake.buckets if wake.buckets is not None and len(wake.buckets) <= _MOST_BUCKETS else None
    kinds = None if wake.kinds is None else sorted(wake.kinds)
    text = _dump(wake, kinds, buckets, stops)
    return text if len(text) <= _LONGEST else _dump(wake, None, buckets if len(text) < 2 * _LONGEST else None, None)


def decode(payload: str) -> Wake:
    """The wake of a payload; an unreadable one (of a newer version) wakes everyone."""
    try:
        data = json.loads(payload)
        packed = None if data["b"] is None else base64.b64decode(data["b"])
        return Wake(
            kinds=None if data["k"] is None else set(data["k"]),
            buckets=None if packed is None else {value for (value,) in struct.iter_unpack("<H", packed)},
            stops=None if data["x"] is None else [(task, attempt, reason) for task, attempt, reason in data["x"]],
            shards=int(data["s"]),
            again=None if data["a"] is None else int(data["a"]),
            origin=data["o"],
        )
    except (ValueError, KeyError, TypeError, struct.error):
        return everything()


def encode_decided(wake: Wake, *, over: bool) -> list[str]:
    """The payloads for NOTIFY on DISPATCH_CHANNEL, with `over` also of what has ended."""
    payloads = _payloads(wake.origin, wake.decided or [])
    return payloads + _payloads(wake.origin + _OVER, wake.over or []) if over else payloads


def _payloads(origin: str, ids: list[str]) -> list[str]:
    parts = [ids[place : place + _MOST_DECIDED] for place in range(0, len(ids), _MOST_DECIDED)]
    return [f"{origin} {''.join(map(_pack_id, part))}" for part in parts]


def decode_decided(payload: str) -> Wake:
    """The wake of a payload on DISPATCH_CHANNEL; an unreadable one wakes everyone.

    It is nobody's, so that whoever made the change hears of it, too: of a commit whose answer was lost nobody was told there.
    """
    if payload.startswith(_OWNER):
        return Wake(queues={payload.removeprefix(_OWNER)})
    origin, _, packed = payload.partition(" ")
    try:
        ids = [_unpack_id(packed[place : place + 22]) for place in range(0, len(packed), 22)]
    except ValueError:
        return everything()
    if origin.endswith(_OVER):
        return Wake(over=ids)
    return Wake(decided=ids)


def _pack_id(task_id: str) -> str:
    return base64.b64encode(uuid.UUID(task_id).bytes)[:22].decode()


def _unpack_id(packed: str) -> str:
    return str(uuid.UUID(bytes=base64.b64decode(packed + "==")))


def _dump(wake: Wake, kinds: list[str] | None, buckets: Iterable[int] | None, stops: object) -> str:
    values = None if buckets is None else sorted(buckets)
    packed = None if values is None else base64.b64encode(struct.pack(f"<{len(values)}H", *values)).decode()
    told = {"o": wake.origin, "s": wake.shards, "a": wake.again, "k": kinds, "b": packed, "x": stops}
    return json.dumps(told, separators=(",", ":"))
