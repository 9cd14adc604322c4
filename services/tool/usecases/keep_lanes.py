"""Keeps this process's share of the lanes of the outboxes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import structlog

from services.common.errors import DomainError
from services.tool.domain.ports import LaneLeases

_log = structlog.get_logger(__name__)


class KeepLanes:
    """Implements Lanes; `run` must run beside it."""

    def __init__(self, leases: LaneLeases, lease_seconds: float) -> None:
        """The leases last for `lease_seconds` unless they are renewed."""
        self._leases = leases
        self._lease_seconds = lease_seconds
        self._owned: Mapping[int, int] = {}

    def owned(self) -> Mapping[int, int]:
        """See Lanes."""
        return self._owned if self._owned and self._leases.valid() else {}

    async def run(self) -> None:
        """Keeps them until cancelled; then the others take over at once."""
        try:
            while True:
                try:
                    self._owned = await self._leases.renew()
                except DomainError as error:
                    _log.warning("lanes_not_renewed", error=str(error))
                await asyncio.sleep(self._lease_seconds / 3)
        finally:
            self._owned = {}
            with contextlib.suppress(DomainError, TimeoutError):
                async with asyncio.timeout(2):
                    await self._leases.leave()
