"""Work that met somebody else's in the database is done again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.common.errors import Aborted

R = TypeVar("R")
_ATTEMPTS = 5


async def past_conflicts(work: Callable[[], Awaitable[R]]) -> R:
    """What `work`, one transaction, gives; after a deadlock or serialization failure it is done again, the last one is raised."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return await work()
        except Aborted:
            # Full jitter, so that two that met do not meet again.
            await asyncio.sleep(random.random() * 0.01 * 2**attempt)  # noqa: S311 - not a secret
    return await work()
