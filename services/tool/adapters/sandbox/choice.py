"""Which sandbox this machine has: Docker, else bubblewrap, else none; each is tried before it is chosen."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import structlog
from opentelemetry import trace

from services.tool.adapters.sandbox.bubblewrap import BubblewrapEngine
from services.tool.adapters.sandbox.docker_engine import DockerEngine
from services.tool.adapters.sandbox.engine import Engine
from services.tool.adapters.sandbox.pool import SandboxPool
from services.tool.domain.errors import SandboxLost, SandboxUnavailable
from services.tool.domain.model import Outcome, Program

Choice: TypeAlias = Literal["auto", "docker", "bubblewrap"]
_SWEEP_SECONDS = 60.0
_TRIAL = Program(source="result = arguments + 1", arguments=41, time_limit=20.0)
_tracer = trace.get_tracer(__name__)
_log = structlog.get_logger(__name__)


class ChosenSandbox:
    """The best sandbox that works; chosen at the start, and again when it stops working."""

    def __init__(self, engines: Sequence[Callable[[], Engine]], concurrency: int, warm: int) -> None:
        """Takes the first of `engines` that starts and runs a trial; nothing is tried before `prepare` or the first run."""
        self._engines = engines
        self._concurrency = concurrency
        self._warm = warm
        self._pool: SandboxPool | None = None
        self._choosing: asyncio.Task[SandboxPool] | None = None
        self._closed = False
        self._closing: set[asyncio.Task[None]] = set()

    async def run(self, program: Program) -> Outcome:
        """See Sandbox."""
        pool = await self._chosen()
        try:
            with _tracer.start_as_current_span("sandbox.run", attributes={"guildmesh.sandbox": pool.name}):
                return await pool.run(program)
        except SandboxUnavailable:
            self._drop(pool)
            # The program did not begin, so another sandbox may run it.
            return await (await self._chosen()).run(program)
        except SandboxLost:
            self._drop(pool)
            raise

    async def keep(self) -> None:
        """Chooses, then sweeps leftovers now and then, until cancelled."""
        while True:
            with contextlib.suppress(SandboxUnavailable):
                await (await self._chosen()).sweep()
            await asyncio.sleep(_SWEEP_SECONDS)

    async def close(self) -> None:
        """Removes every sandbox; what runs is stopped."""
        self._closed = True
        if self._choosing is not None:
            await asyncio.wait([self._choosing])
        if self._pool is not None:
            await self._pool.close(stop=True)
        await asyncio.gather(*self._closing)

    async def _chosen(self) -> SandboxPool:
        if self._closed:
            raise SandboxUnavailable
        if self._pool is not None:
            return self._pool
        if self._choosing is None or self._choosing.done():
            self._choosing = asyncio.create_task(self._choose())
            # Someone may have gone away while waiting; then nobody else asks for the error.
            self._choosing.add_done_callback(lambda task: task.cancelled() or task.exception())
        # A caller that goes away must not leave a sandbox half opened.
        return await asyncio.shield(self._choosing)

    def _drop(self, pool: SandboxPool) -> None:
        if self._pool is pool:
            self._pool = None
            # Its other runs end in their own time; the caller does not wait for them.
            task = asyncio.create_task(pool.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _choose(self) -> SandboxPool:
        for open_engine in self._engines:
            name = getattr(open_engine, "__name__", str(open_engine))
            try:
                engine = await asyncio.to_thread(open_engine)
            except SandboxUnavailable as error:
                _log.info("sandbox_not_available", sandbox=name, error=str(error.__cause__ or error))
                continue
            pool = SandboxPool(engine, self._concurrency, self._warm)
            try:
                outcome = await pool.run(_TRIAL)
            except (SandboxUnavailable, SandboxLost) as error:
                _log.info("sandbox_not_available", sandbox=engine.name, error=str(error.__cause__ or error))
                await pool.close()
                continue
            if outcome.result == 42:
                _log.info("sandbox_chosen", sandbox=engine.name, seconds=round(outcome.seconds, 3))
                self._pool = pool
                return pool
            _log.warning("sandbox_trial_failed", sandbox=engine.name, error=outcome.error)
            await pool.close()
        _log.warning("sandbox_unavailable")
        raise SandboxUnavailable


def engines_for(choice: Choice, docker_host: str | None) -> list[Callable[[], Engine]]:
    """The engines to try, in order."""

    def docker() -> Engine:
        return DockerEngine(docker_host)

    def bubblewrap() -> Engine:
        return BubblewrapEngine()

    known: Mapping[Choice, list[Callable[[], Engine]]] = {
        "auto": [docker, bubblewrap],
        "docker": [docker],
        "bubblewrap": [bubblewrap],
    }
    return known[choice]
