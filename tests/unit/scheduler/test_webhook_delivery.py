"""The sending of a lane: what is added is sent at once. The tables are a double here."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from services.scheduler.domain.webhook_endpoint import Endpoint, RetryRules
from services.scheduler.webhooks.delivery import Delivery, Places, tenant_places

RULES = RetryRules(first_seconds=1.0, longest_seconds=60.0, longest_closed_seconds=30.0, most_attempts=5, most_failures=3)


class Tables:
    """Nothing waits, as far as a search says that began before; who is asked for is remembered."""

    def __init__(self) -> None:
        self.searching, self.found = asyncio.Event(), asyncio.Event()
        self.asked = asyncio.Event()

    async def in_line(self, _: list[str]) -> set[str]:
        self.searching.set()
        await self.found.wait()
        return set()

    async def due(self, free: dict[str, int], _: object) -> list[Any]:
        if "hook" in free:
            self.asked.set()
        return []


async def test_what_is_added_while_it_searches_does_not_wait_for_the_next_search() -> None:
    async def ready() -> None: ...

    webhook = SimpleNamespace(paused=False, sealed=False)
    known = SimpleNamespace(webhook=webhook, endpoint=Endpoint(RULES, 1, closed=False))
    registry: Any = SimpleNamespace(ready=ready, all={"hook": known})
    tables: Any = Tables()
    places = Places(asyncio.Semaphore(1), tenant_places(1))
    nobody: Any = None
    delivery = Delivery(registry, tables, nobody, nobody, RULES, places, 1, lambda: True, {})
    running = asyncio.create_task(delivery.run())
    await tables.searching.wait()
    delivery.added("hook")
    tables.found.set()
    try:
        async with asyncio.timeout(1):
            await tables.asked.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
