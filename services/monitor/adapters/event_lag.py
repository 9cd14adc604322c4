"""How far events are behind on their way to Kafka, as a relay tells at its admin port."""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from services.monitor.domain.health import EventLag

_TIMEOUT = 1.0


class RelayLag:
    """Asks the relays, one after the other: each can tell for all."""

    def __init__(self, client: httpx.AsyncClient, addresses: Sequence[str]) -> None:
        """`addresses` are host:port of the relays' admin ports."""
        self._client = client
        self._addresses = addresses

    async def read(self) -> EventLag | None:
        """See the port EventLags."""
        for address in self._addresses:
            try:
                response = await self._client.get(f"http://{address}/lag", timeout=_TIMEOUT)
                response.raise_for_status()
                told = response.json()
                return EventLag(int(told["events"]), float(told["oldest_seconds"]), bool(told["late"]))
            except (httpx.HTTPError, ValueError, KeyError, TypeError):
                continue
        return None
