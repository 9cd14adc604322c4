"""Queues with limits, which all tenants of a cluster share, and which task of a load belongs in which."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import psycopg2

from tests.faults.evidence import QueueLimits

KEYED = "faults-limited"
"""has a limit of each key, too."""
HALTED = "faults-halted"
"""is paused now and then."""
LIMITED: Mapping[str, QueueLimits] = {
    KEYED: QueueLimits(max_running=8, max_running_per_key=3),
    "faults-rated": QueueLimits(max_running=20, rate_per_second=20.0, rate_burst=5),
    HALTED: QueueLimits(max_running=5),
}
KEYS = ("x", "y", "z", "")
# Of as many tasks that are in queues with limits.
_SHARES = (KEYED,) * 7 + ("faults-rated",) + (HALTED,) * 2
_INSERT = """
INSERT INTO scheduler.queues (tenant_id, queue, priority, max_running, max_running_per_key, rate_per_second, rate_burst)
VALUES ('*', %s, 5, %s, %s, %s, %s)
"""
_DECIDED = "SELECT count(*) FROM scheduler.decided_queues WHERE queue = ANY(%s)"
# By then whoever creates tasks has read the list once more (services.scheduler.storage.decided_queues).
_HEARD_SECONDS = 1.2


def place_of(tag: str, share: float) -> tuple[str, str] | None:
    """The queue and the concurrency key of a task, always the same for a tag; None for one of those without limits."""
    number = zlib.crc32(tag.encode())
    if number % 1000 >= share * 1000:
        return None
    queue = _SHARES[number // 1000 % len(_SHARES)]
    return queue, KEYS[number // 10_000 % len(KEYS)] if LIMITED[queue].max_running_per_key else ""


async def make_queues(url: str, query: Callable[..., list[Any]]) -> Mapping[str, QueueLimits]:
    """Makes the queues, as an operator would by SQL, and waits until their limits hold; `query` gives the rows of a statement."""
    await asyncio.to_thread(_insert, url)
    async with asyncio.timeout(60):
        while (await asyncio.to_thread(query, _DECIDED, list(LIMITED)))[0][0] < len(LIMITED):  # noqa: ASYNC110 - elsewhere
            await asyncio.sleep(0.05)
    await asyncio.sleep(_HEARD_SECONDS)
    return LIMITED


def _insert(url: str) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
        for queue, limits in LIMITED.items():
            cursor.execute(
                _INSERT,
                (
                    queue,
                    limits.max_running,
                    limits.max_running_per_key,
                    limits.rate_per_second,
                    None if limits.rate_per_second is None else limits.rate_burst,
                ),
            )
