"""A service process: what it consists of, and how it starts and stops.

Start: background tasks, then the admin port, then gRPC, then health SERVING. Stop, on SIGTERM or SIGINT: health NOT_SERVING and
/ready 503, running calls get `drain_seconds`, then background tasks end and everything is closed in the reverse order of opening.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import structlog
import uvloop
from grpc_health.v1 import health, health_pb2
from pydantic import ValidationError

from services.common.admin import AdminServer, Check, Route, failed_checks
from services.common.grpcx.server import Registration, build_server, server_credentials, set_serving
from services.common.settings import ServiceSettings
from services.common.telemetry.logs import configure_logs
from services.common.telemetry.tracing import tracing

_log = structlog.get_logger(__name__)
_APART_SECONDS = 2.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
S = TypeVar("S", bound=ServiceSettings)

Background = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Service:
    """What a service consists of; its bootstrap makes one."""

    name: str
    registrations: Sequence[Registration] = ()
    background: Sequence[Background] = ()
    """run until they are cancelled; one that ends or fails stops the process, and its supervisor starts it anew."""
    checks: Mapping[str, Check] = field(default_factory=dict)
    """each raises when something that the service stands on is down; they decide /ready, never whether the process lives."""
    drain: Sequence[Callable[[], Awaitable[None]]] = ()
    """called first at a stop, such as telling streams to reconnect elsewhere."""
    serving: Sequence[Callable[[int], None]] = ()
    """called with the gRPC port once it answers there."""
    admin_routes: Mapping[str, Route] = field(default_factory=dict)
    apart: Mapping[str, Check] = field(default_factory=dict)
    """by gRPC service: what it alone stands on. While a check raises, that service is NOT_SERVING, and the process is ready."""
    own_health: bool = True
    serves_grpc: bool = True


class RunningService:
    """A started service; tests use it in process."""

    def __init__(self, service: Service, settings: ServiceSettings) -> None:
        self.service = service
        self.settings = settings
        self.port = 0
        self.admin_port = 0
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._admin = AdminServer(service.checks, service.admin_routes, metrics=settings.enable_metrics)
        self._server: grpc.aio.Server | None = None
        self._health: health.aio.HealthServicer | None = None

    async def start(self) -> None:
        """Starts everything; raises OSError when a port is taken."""
        service, settings = self.service, self.settings
        for work in service.background:
            task = asyncio.create_task(work())
            task.add_done_callback(self._ended)
            self._tasks.append(task)
        self.admin_port = await self._admin.start(settings.listen_host, settings.admin_port)
        if service.serves_grpc:
            self._server, self._health = build_server(
                service.registrations, tracing=settings.enable_tracing, own_health=service.own_health
            )
            try:
                self.port = self._server.add_secure_port(
                    f"{settings.listen_host}:{settings.port}", server_credentials(settings.tls_dir)
                )
            except RuntimeError as error:
                raise OSError(f"port {settings.port} on {settings.listen_host} is taken; set GUILDMESH_PORT") from error
            await self._server.start()
            await set_serving(self._health, service.registrations)
            self._tasks += [asyncio.create_task(self._tell_apart(name, check)) for name, check in service.apart.items()]
            for step in service.serving:
                step(self.port)
        _log.info("serving", port=self.port, admin_port=self.admin_port)

    async def stop(self) -> None:
        """Drains and stops everything."""
        self._admin.stopping = True
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        for step in self.service.drain:
            with suppress(Exception):
                await step()
        if self._server is not None:
            await self._server.stop(self.settings.drain_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._admin.stop()
        _log.info("stopped")

    async def _tell_apart(self, name: str, check: Check) -> None:
        assert self._health is not None
        told = ""
        while True:
            problem = (await failed_checks({name: check})).get(name, "")
            if bool(problem) != bool(told):
                _log.warning("part is down", part=name, cause=problem) if problem else _log.info("part is back", part=name)
            told = problem
            # Once the server stops this changes nothing any more.
            await self._health.set(name, NOT_SERVING if problem else SERVING)
            await asyncio.sleep(_APART_SECONDS)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self.failed.done():
            return
        error = task.exception() or RuntimeError("a background task ended")
        self.failed.set_exception(error)


def run(name: str, settings_class: type[S], open_service: Callable[[S], AbstractAsyncContextManager[Service]]) -> None:
    """The main function of a service process; ends with exit code 2 for wrong settings, 1 when something in it failed."""
    try:
        settings = settings_class()
    except ValidationError as error:
        for problem in error.errors():
            # What several settings say together is at none of them.
            parts = (name, ".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, "))
            print(": ".join(filter(None, parts)), file=sys.stderr)  # noqa: T201
        sys.exit(2)
    configure_logs(name, settings.log_level)
    with tracing(settings, name):
        sys.exit(uvloop.run(_serve(settings, open_service)))


def _spare_the_collector() -> None:
    """Lets Python's garbage collector look at less, and more seldom.

    A busy service spent a twentieth of its processor time there, on its own modules and classes above all, which stay as long as
    it does: they are set aside. What a call makes is freed by its last reference; only cycles wait for the collector, such as the
    50 objects that grpc.aio leaves of a failed call, and 50,000 of those are some MB.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def _serve(settings: S, open_service: Callable[[S], AbstractAsyncContextManager[Service]]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with open_service(settings) as service:
            running = RunningService(service, settings)
            try:
                _spare_the_collector()
                await running.start()
                waiter: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
                await asyncio.wait({waiter, running.failed}, return_when=asyncio.FIRST_COMPLETED)
                waiter.cancel()
            finally:
                await running.stop()
            if running.failed.done() and not stop.is_set():
                await running.failed
    except OSError as error:
        # A port that is taken, a certificate that is missing: the sentence says it, a traceback would hide it.
        _log.error("the process ends", error=str(error))
        return 1
    except Exception as error:
        _log.error("the process ends", exc_info=error)
        return 1
    return 0
