"""API_WORKERS api processes on one port (requirement row 15).

Every process listens on the port itself (SO_REUSEPORT), so that the kernel spreads connections and no process stands between.
This one holds the port's number, starts the others, starts one that ends again with a growing pause, and answers the admin
port for all of them: ready when all are, metrics as their sum.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from http import HTTPStatus

import httpx
import structlog

from services.agent.server.child import PARENT_VARIABLE
from services.agent.server.summed_metrics import summed
from services.agent.settings import AgentSettings
from services.common.admin import AdminServer, Check
from services.common.errors import DependencyUnavailable
from services.common.telemetry.logs import configure_logs

_log = structlog.get_logger(__name__)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
# A process that lived this long did not fail at its start, so the next start need not be put off.
_HEALTHY_SECONDS = 30.0
# Beyond the drain time, before a process that does not stop is killed.
_STOP_MARGIN_SECONDS = 10.0
# The exit code of wrong settings: the next start would meet the same ones.
_WRONG_SETTINGS = 2


class Child:
    """One api process, kept running."""

    def __init__(self, number: int, start: Callable[[int], dict[str, str]]) -> None:
        """A process that is not started yet.

        Args:
            number: 0 to API_WORKERS - 1.
            start: takes a free admin port and gives the environment to start with.
        """
        self.number = number
        self.admin_port = 0
        self._environment = start
        self._process: asyncio.subprocess.Process | None = None

    async def keep_running(self) -> int:
        """Starts the process whenever it is not there; ends only for wrong settings, with their exit code."""
        pause = _FIRST_PAUSE
        while True:
            self.admin_port = _free_port()
            started = time.monotonic()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.agent", env=self._environment(self.admin_port)
            )
            code = await self._process.wait()
            if code == _WRONG_SETTINGS:
                return code
            if time.monotonic() - started > _HEALTHY_SECONDS:
                pause = _FIRST_PAUSE
            _log.error("api process ended", worker=self.number, code=code, starts_again_in=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def stop(self, grace_seconds: float) -> None:
        """Asks the process to stop, and kills it when it has not after `grace_seconds`."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(grace_seconds):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


class SupervisorAdmin(AdminServer):
    """The admin port of all the processes together."""

    def __init__(self, children: list[Child], client: httpx.AsyncClient, *, metrics: bool) -> None:
        checks: dict[str, Check] = {}
        super().__init__(checks, metrics=metrics)
        self._children = children
        self._client = client
        self._with_metrics = metrics

    async def answer(self, method: str, path: str) -> tuple[HTTPStatus, str, bytes]:
        """/ready and /metrics from the processes, the rest as every service does."""
        if method in ("GET", "HEAD") and path == "/ready" and not self.stopping:
            return await self._ready()
        if method in ("GET", "HEAD") and path == "/metrics" and self._with_metrics:
            pages = await asyncio.gather(*(self._page(child, "/metrics") for child in self._children))
            return HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", summed([page.text for page in pages if page])
        return await super().answer(method, path)

    async def _ready(self) -> tuple[HTTPStatus, str, bytes]:
        pages = await asyncio.gather(*(self._page(child, "/ready") for child in self._children))
        for page in pages:
            # They all stand on the same things: what one of them misses is what to tell.
            if page is not None and page.status_code != HTTPStatus.OK:
                return HTTPStatus(page.status_code), "application/json", page.content
        if None in pages:
            self._checks = {"api processes": _not_all_answer}
            return await super().answer("GET", "/ready")
        self._checks = {}
        return await super().answer("GET", "/ready")

    async def _page(self, child: Child, path: str) -> httpx.Response | None:
        try:
            return await self._client.get(f"http://127.0.0.1:{child.admin_port}{path}")
        except httpx.HTTPError:
            return None


async def _not_all_answer() -> None:
    raise DependencyUnavailable("part of the api processes")


def supervise(settings: AgentSettings) -> int:
    """Runs until SIGTERM or SIGINT; gives the exit code."""
    configure_logs("agent-supervisor", settings.log_level)
    return asyncio.run(_supervise(settings))


async def _supervise(settings: AgentSettings) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        held = _hold_port(settings.listen_host, settings.port)
    except OSError as error:
        _log.error("port taken", port=settings.port, error=str(error), do="set GUILDMESH_PORT")
        return 1
    port: int = held.getsockname()[1]

    def environment(admin_port: int) -> dict[str, str]:
        return os.environ | {
            "API_WORKERS": "1",
            "GUILDMESH_PORT": str(port),
            "GUILDMESH_ADMIN_PORT": str(admin_port),
            "GUILDMESH_LISTEN_HOST": settings.listen_host,
            PARENT_VARIABLE: str(os.getpid()),
        }

    children = [Child(number, environment) for number in range(settings.api_workers)]
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        admin = SupervisorAdmin(children, client, metrics=settings.enable_metrics)
        try:
            admin_port = await admin.start(settings.listen_host, settings.admin_port)
        except OSError as error:
            _log.error("admin port taken", port=settings.admin_port, error=str(error), do="set GUILDMESH_ADMIN_PORT")
            held.close()
            return 1
        _log.info("serving", port=port, admin_port=admin_port, workers=len(children))
        keepers = [asyncio.create_task(child.keep_running()) for child in children]
        waiter = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([waiter, *keepers], return_when=asyncio.FIRST_COMPLETED)
        admin.stopping = True
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*(child.stop(settings.drain_seconds + _STOP_MARGIN_SECONDS) for child in children))
        await asyncio.gather(*keepers, return_exceptions=True)
        await admin.stop()
    held.close()
    waiter.cancel()
    return 0 if waiter in done else _WRONG_SETTINGS


def _hold_port(host: str, port: int) -> socket.socket:
    """A socket that keeps the port for this mesh and takes no connection itself; raises OSError when someone else has it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        held.bind((host, port))
    except OSError:
        held.close()
        raise
    return held


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
