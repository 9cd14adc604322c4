"""LISTEN: hears of the commits of other processes, and comes back whenever the connection is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import asyncpg
import structlog
from sqlalchemy.engine import make_url

log = structlog.get_logger(__name__)

_CONNECT_TIMEOUT = 5.0
_PING_SECONDS = 10.0
_PING_TIMEOUT = 5.0
_LONGEST_PAUSE = 2.0


class Listener:
    """One connection that listens for ever."""

    def __init__(
        self,
        database_url: str,
        application_name: str,
        channels: Mapping[str, Callable[[str], None]],
        on_connect: Callable[[asyncpg.Connection], Awaitable[None]],
    ) -> None:
        """Listens on the database of `database_url`.

        Args:
            database_url: of PostgreSQL.
            application_name: for people who look at pg_stat_activity.
            channels: what to call with each payload of a channel.
            on_connect: called after each (re)connect, since notifications may have been lost.
        """
        self._url = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._application_name = application_name
        self._channels = channels
        self._on_connect = on_connect

    async def run(self) -> None:
        """Listens until cancelled."""
        pause = 0.1
        while True:
            try:
                connection = await asyncpg.connect(
                    self._url,
                    timeout=_CONNECT_TIMEOUT,
                    server_settings={"application_name": self._application_name},
                )
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                log.warning("listen_failed", error=repr(error), retry_in=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = 0.1
            try:
                await self._listen(connection)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                log.warning("listen_lost", error=repr(error))
            finally:
                await _close(connection)
            await asyncio.sleep(pause)

    async def _listen(self, connection: asyncpg.Connection) -> None:
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        for channel in self._channels:
            await connection.add_listener(channel, self._heard)
        await self._on_connect(connection)
        while not lost.is_set():
            try:
                async with asyncio.timeout(_PING_SECONDS):
                    await lost.wait()
            except TimeoutError:
                # A half-open connection says nothing by itself.
                await connection.execute("SELECT 1", timeout=_PING_TIMEOUT)
        raise asyncpg.InterfaceError("the server closed the connection")

    def _heard(self, _connection: object, _process: int, channel: str, payload: str) -> None:
        self._channels[channel](payload)


async def _close(connection: asyncpg.Connection) -> None:
    try:
        await connection.close(timeout=1)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        connection.terminate()
