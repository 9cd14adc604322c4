"""Hears of the commits of other schedulers."""

from __future__ import annotations

from collections.abc import Callable

import asyncpg

from services.common.db.listener import Listener as DatabaseListener
from services.common.failpoints import fail_point
from services.scheduler.domain.wake import CHANNEL, DISPATCH_CHANNEL, Wake, decode, decode_decided, everything


class Listener:
    """One connection that listens for ever. After each (re)connect everyone is woken, since notifications may have been lost."""

    def __init__(self, database_url: str, on_wake: Callable[[Wake], None], application_name: str) -> None:
        """Listens on the database of `database_url`; `application_name` is for people who look at pg_stat_activity."""
        self._on_wake = on_wake
        channels: dict[str, Callable[[str], None]] = {
            CHANNEL: lambda payload: on_wake(decode(payload)),
            DISPATCH_CHANNEL: lambda payload: on_wake(decode_decided(payload)),
        }
        self._listener = DatabaseListener(database_url, application_name, channels, self._connected)

    async def run(self) -> None:
        """Listens until cancelled."""
        await self._listener.run()

    async def _connected(self, connection: asyncpg.Connection) -> None:
        await fail_point("scheduler.listen.before_wake", connection.terminate)
        self._on_wake(everything())
