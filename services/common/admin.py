"""The admin port of a process: plain HTTP for probes and Prometheus (probes do not speak mutual TLS)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

import h11
import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.common.errors import DomainError

Check = Callable[[], Awaitable[None]]
Route = Callable[[], Awaitable[tuple[str, bytes]]]

_log = structlog.get_logger(__name__)
_REQUEST_TIMEOUT = 10.0
_CHECK_TIMEOUT = 3.0


async def failed_checks(checks: Mapping[str, Check]) -> dict[str, str]:
    """Runs all checks at once; gives the name of each that failed and why."""

    async def run(name: str, check: Check) -> tuple[str, str | None]:
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT):
                await check()
        except TimeoutError:
            return name, f"did not answer within {_CHECK_TIMEOUT:g} s"
        except DomainError as error:
            return name, error.message
        except Exception as error:
            _log.warning("check failed", check=name, exc_info=error)
            return name, f"{type(error).__name__}: {error}"
        return name, None

    outcomes = await asyncio.gather(*(run(name, check) for name, check in checks.items()))
    return {name: message for name, message in outcomes if message is not None}


class AdminServer:
    """Serves GET /health, /ready, /metrics and the routes of a service."""

    def __init__(self, checks: Mapping[str, Check], routes: Mapping[str, Route] | None = None, *, metrics: bool = True) -> None:
        self._checks = checks
        self._routes = dict(routes or {})
        self._metrics = metrics
        self._server: asyncio.Server | None = None
        self.stopping = False

    async def start(self, host: str, port: int) -> int:
        """Listens; gives the port."""
        self._server = await asyncio.start_server(self._serve, host, port)
        address: tuple[str, int] = self._server.sockets[0].getsockname()
        return address[1]

    async def stop(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.close()

    async def answer(self, method: str, path: str) -> tuple[HTTPStatus, str, bytes]:
        """The status, content type and body for a request."""
        if method not in ("GET", "HEAD"):
            return _json(HTTPStatus.METHOD_NOT_ALLOWED, {"code": 12, "message": "This port answers only GET."})
        if path == "/health":
            return _json(HTTPStatus.OK, {"status": "healthy"})
        if path == "/ready":
            failed = {"process": "is stopping"} if self.stopping else await failed_checks(self._checks)
            if failed:
                return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "not ready", "down": failed})
            return _json(HTTPStatus.OK, {"status": "ready"})
        route = self._routes.get(path)
        # A service's own route comes first: the monitor's /metrics is the sum of the whole mesh.
        if route is None and path == "/metrics" and self._metrics:
            return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest()
        if route is None:
            known = ", ".join(["/health", "/ready", "/metrics", *self._routes])
            return _json(HTTPStatus.NOT_FOUND, {"code": 5, "message": f"Nothing here; this port answers {known}."})
        content_type, body = await route()
        return HTTPStatus.OK, content_type, body

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT):
                while True:
                    event = connection.next_event()
                    if event is h11.NEED_DATA:
                        connection.receive_data(await reader.read(65536))
                    elif isinstance(event, h11.Request):
                        path = event.target.decode("ascii", "replace").split("?", 1)[0]
                        status, content_type, body = await self._safe_answer(event.method.decode(), path)
                        headers = [
                            ("content-type", content_type),
                            ("content-length", str(len(body))),
                            ("connection", "close"),
                        ]
                        for part in (
                            h11.Response(status_code=status, headers=headers),
                            h11.Data(data=b"" if event.method == b"HEAD" else body),
                            h11.EndOfMessage(),
                        ):
                            writer.write(connection.send(part) or b"")
                        await writer.drain()
                        return
                    else:
                        return
        except (TimeoutError, OSError, h11.ProtocolError):
            # The client went away or spoke something else; there is nobody to tell.
            return
        finally:
            writer.close()

    async def _safe_answer(self, method: str, path: str) -> tuple[HTTPStatus, str, bytes]:
        try:
            return await self.answer(method, path)
        except Exception as error:
            _log.error("admin request failed", path=path, exc_info=error)
            return _json(HTTPStatus.INTERNAL_SERVER_ERROR, {"code": 13, "message": "An internal error happened; the log has it."})


def _json(status: HTTPStatus, body: object) -> tuple[HTTPStatus, str, bytes]:
    return status, "application/json", json.dumps(body).encode()
