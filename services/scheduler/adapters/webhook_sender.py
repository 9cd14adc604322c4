"""Sends events to receivers over HTTP, to addresses that were checked, and to nothing that a receiver points at."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpcore

from services.scheduler.domain.webhook import Delivered, Outgoing
from services.scheduler.domain.webhook_signature import signed_headers
from services.scheduler.domain.webhook_url import Address, WebhookTargets

_MOST_CONNECTIONS = 512
_IDLE_CONNECTIONS = 128
_IDLE_SECONDS = 15.0
_MOST_ANSWER_BYTES = 4096
_MOST_TOLD = 300
_RESOLVERS = 32
_RESOLVE_SECONDS = 5.0
# A receiver may not have us come back in a year.
_LONGEST_RETRY_AFTER = 3600.0
_ASKS_TO_WAIT = (429, 503)
_TAKEN = range(200, 300)
_MOVED = range(300, 400)


class WebhookSender:
    """Implements the port EventSender."""

    def __init__(self, pool: httpcore.AsyncConnectionPool, seconds: float) -> None:
        self._pool = pool
        self._seconds = seconds

    async def send(self, url: str, secrets: Sequence[bytes], outgoing: Outgoing) -> Delivered:
        """See the port."""
        started = time.monotonic()
        headers = {**outgoing.headers, **signed_headers(outgoing.event_id, int(time.time()), outgoing.body, secrets)}
        try:
            async with asyncio.timeout(self._seconds):
                delivered = await self._post(url, headers, outgoing.body)
        except TimeoutError:
            delivered = Delivered(0, f"no answer within {self._seconds:g} s", 0.0)
        except _Forbidden as error:
            delivered = Delivered(0, str(error), 0.0)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            delivered = Delivered(0, _told(error), 0.0)
        return Delivered(delivered.status_code, delivered.error, time.monotonic() - started, delivered.retry_after)

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> Delivered:
        async with self._pool.stream("POST", url, headers=list(headers.items()), content=body) as response:
            # Read to its end a connection serves the next one, too; nobody has us read for ever.
            beginning = b""
            async for part in response.aiter_stream():
                beginning += part
                if len(beginning) > _MOST_ANSWER_BYTES:
                    break
            if response.status in _TAKEN:
                return Delivered(response.status, "", 0.0)
            found = {name.lower(): value for name, value in response.headers}
            retry_after = _retry_after(found.get(b"retry-after")) if response.status in _ASKS_TO_WAIT else None
            text = _line(beginning.decode("utf-8", "replace"))
            if response.status in _MOVED:
                text = "redirects are not followed; update the URL"
            return Delivered(
                response.status, f"HTTP {response.status}: {text}" if text else f"HTTP {response.status}", 0.0, retry_after
            )


@asynccontextmanager
async def open_webhook_sender(targets: WebhookTargets, seconds: float) -> AsyncIterator[WebhookSender]:
    """A sender to what `targets` allows, each try within `seconds`."""
    context = httpcore.default_ssl_context()
    # Of the machine and of SSL_CERT_FILE besides the well-known ones: receivers on premises have certificates of their own.
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    resolvers = ThreadPoolExecutor(_RESOLVERS, "webhook-resolve")
    pool = httpcore.AsyncConnectionPool(
        ssl_context=context,
        max_connections=_MOST_CONNECTIONS,
        max_keepalive_connections=_IDLE_CONNECTIONS,
        keepalive_expiry=_IDLE_SECONDS,
        network_backend=_CheckedNetwork(targets, resolvers),
    )
    try:
        async with pool:
            yield WebhookSender(pool, seconds)
    finally:
        resolvers.shutdown(wait=False, cancel_futures=True)


class _Forbidden(Exception):
    """The address may not be reached."""


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Resolves a name itself, checks all of its addresses, and connects to one that it has checked: nobody asks a second time."""

    def __init__(self, targets: WebhookTargets, resolvers: ThreadPoolExecutor) -> None:
        self._targets = targets
        self._resolvers = resolvers
        self._network = httpcore.AnyIOBackend()
        self._asked: dict[tuple[str, int], asyncio.Future[Sequence[Address]]] = {}

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to an address of a name; raises _Forbidden."""
        if self._targets.ports and port not in self._targets.ports:
            raise _Forbidden(f"the port {port} is not allowed (GUILDMESH_WEBHOOK_PORTS)")
        addresses = await self._resolve(host, port)
        forbidden = self._targets.first_forbidden(addresses)
        if forbidden is not None:
            raise _Forbidden(
                f"{host} has the address {forbidden}, which is not public and not in GUILDMESH_WEBHOOK_ALLOWED_NETWORKS"
            )
        error: httpcore.ConnectError | None = None
        for address in addresses:
            try:
                return await self._network.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except httpcore.ConnectError as failed:
                error = failed
        raise error or httpcore.ConnectError(f"{host} has no address")

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await asyncio.sleep(seconds)

    async def _resolve(self, host: str, port: int) -> Sequence[Address]:
        """All addresses of a name. Whoever asks for the same name meanwhile waits for the same answer."""
        asked = self._asked.get((host, port))
        if asked is None:
            asked = asyncio.get_running_loop().run_in_executor(self._resolvers, _addresses, host, port)
            self._asked[host, port] = asked
            asked.add_done_callback(lambda _: self._asked.pop((host, port), None))
        try:
            async with asyncio.timeout(_RESOLVE_SECONDS):
                return await asyncio.shield(asked)
        except TimeoutError:
            raise httpcore.ConnectError(f"no name server told the address of {host} within {_RESOLVE_SECONDS:g} s") from None
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} has no address: {_told(error)}") from error


def _addresses(host: str, port: int) -> Sequence[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ipaddress.ip_address(address[0]) for *_, address in found))


def _retry_after(value: bytes | None) -> float | None:
    """Seconds of the header Retry-After, which is a number or a date; None when it says neither."""
    if value is None:
        return None
    text = value.decode("latin-1").strip()
    if text.isdigit():
        seconds = float(text[:9])
    else:
        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            return None
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER)


def _told(error: BaseException) -> str:
    text = _line(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _line(text: str) -> str:
    """The beginning of a text, as one line that can be stored and shown."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:_MOST_TOLD]
