"""What a run did wrong: limits that were exceeded, shares that were not kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.dispatch.loads import Limits


@dataclass(frozen=True)
class Ran:
    """One attempt: from its start to its end, in seconds of the database's clock."""

    tenant: str
    queue: str
    key: str | None
    created: float
    started: float
    ended: float


def exceeded(attempts: Iterable[Ran], queues: Mapping[str, Limits]) -> int:
    """How many starts found their queue or their key full."""
    changes: list[tuple[float, int, str, int]] = []
    for ran in attempts:
        limits = queues[ran.queue]
        for name, limit in ((ran.queue, limits.running), (f"{ran.queue} {ran.key}", limits.per_key if ran.key else None)):
            if limit is not None:
                # What ends in the moment in which another starts has made room for it.
                changes += [(ran.started, 1, name, limit), (max(ran.ended, ran.started), 0, name, limit)]
    running: dict[str, int] = {}
    found = 0
    for _, begins, name, limit in sorted(changes):
        running[name] = running.get(name, 0) + (1 if begins else -1)
        found += bool(begins and running[name] > limit)
    return found


def share_error(attempts: Sequence[Ran], weights: Mapping[str, int], begin: float, end: float) -> float:
    """Greatest distance of a tenant's share of the slot-seconds of the named tenants from its weight's, in percentage points."""
    used = {
        tenant: sum(max(0.0, min(ran.ended, end) - max(ran.started, begin)) for ran in attempts if ran.tenant == tenant)
        for tenant in weights
    }
    total, weight = sum(used.values()), sum(weights.values())
    if not total:
        return 100.0
    return max(abs(used[tenant] / total - weights[tenant] / weight) for tenant in weights) * 100


def worst_window(attempts: Sequence[Ran], weights: Mapping[str, int], begin: float, end: float, length: float) -> float:
    """The greatest `share_error` of any window of that length, moved on by half a second."""
    errors = []
    while begin + length <= end:
        errors.append(share_error(attempts, weights, begin, begin + length))
        begin += 0.5
    return max(errors, default=100.0)
