"""Waiting for what another process or the kernel does in its own time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    """Returns when `condition` holds; raises TimeoutError after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  nothing tells when it comes true
            await asyncio.sleep(0.05)
