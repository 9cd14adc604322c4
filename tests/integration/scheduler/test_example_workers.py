"""The Go and the TypeScript worker outlive their tokens: behind a real gateway, with tokens that live seconds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import task_pb2

from services.common.context import Principal
from services.embedded.gateway_config import GatewayConfig
from services.embedded.parts.envoy import Envoy
from services.embedded.ports import free_port, free_ports
from services.embedded.running import RunningPart
from services.scheduler.bootstrap import open_service
from tests.integration.gateway.conftest import ECHOING, SECRET, SILENT, token
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique, value
from tests.support.example_workers import BUILDS
from tests.support.servers import server_folder
from tests.support.service import metadata, running

KIND = "example.word-count"
TOKEN_SECONDS = 4
pytestmark = [pytest.mark.toolchain, pytest.mark.timeout(300)]


@contextlib.asynccontextmanager
async def gateway(scheduler_port: int, tls: Path) -> AsyncIterator[str]:
    """Envoy before a scheduler; gives its address."""
    services = (*ECHOING, *SILENT)
    upstreams = dict(zip(services, (f"127.0.0.1:{port}" for port in free_ports(len(services))), strict=True))
    with server_folder("gateway") as folder:
        config = GatewayConfig(
            upstreams=upstreams | {"scheduler": f"127.0.0.1:{scheduler_port}"},
            tls_dir=tls / "gateway",
            admin_address="",
            identity_admin=upstreams["identity"],
            jwt_secret_key=SECRET,
            host="127.0.0.1",
            port=free_port(),
            cors_origins=[],
        )
        envoy = RunningPart(Envoy(folder / "envoy", config), folder / "envoy.log")
        await asyncio.to_thread(envoy.start)
        try:
            yield f"http://127.0.0.1:{config.port}"
        finally:
            await asyncio.to_thread(envoy.stop)


@contextlib.asynccontextmanager
async def working(command: list[str], url: str, by: Principal, folder: Path) -> AsyncIterator[None]:
    """A worker of a principal's tenant, whose token is renewed in its file every second."""
    file = folder / f"{by.tenant_id}-token"

    async def renew() -> None:
        while True:
            fresh = file.with_suffix(".new")
            fresh.write_text(token(sub=by.subject, tenant=by.tenant_id, exp=int(time.time()) + TOKEN_SECONDS) + "\n")
            fresh.rename(file)
            await asyncio.sleep(1)

    renewing = asyncio.create_task(renew())
    await asyncio.sleep(0)
    environment = {name: text for name, text in os.environ.items() if name != "GUILDMESH_TOKEN"}
    process = await asyncio.create_subprocess_exec(
        *command, env={**environment, "GUILDMESH_URL": url, "GUILDMESH_TOKEN_FILE": str(file)}
    )
    try:
        yield
        assert process.returncode is None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        renewing.cancel()


async def test_example_workers_run_several_tasks_at_once_for_longer_than_a_token_lives(
    scheduler_settings: MakeSettings, scheduler_tls: Path, worker_commands: dict[str, list[str]], tmp_path: Path
) -> None:
    settings = scheduler_settings(lease_seconds=8.0, heartbeat_seconds=1.0)
    async with running(open_service, settings, scheduler_tls) as server, gateway(server.running.port, scheduler_tls) as url:

        async def check(language: str) -> None:
            scheduler = Scheduler(server, Principal("ada", unique(language), frozenset({"user"})))
            async with working(worker_commands[language], url, scheduler.ada, tmp_path):
                context = {"seconds": 1.5 * TOKEN_SECONDS}
                long = [await scheduler.create("one two three", kind=KIND, context=context) for _ in range(3)]
                for task in long:
                    await scheduler.until_event(task.task_id, "started")
                # All three run: none has ended.
                states = [(await scheduler.get(task.task_id)).status for task in long]
                assert states == ["running"] * 3, language
                for task in long:
                    events = await scheduler.watch(task.task_id)
                    assert [event.WhichOneof("change") for event in events] == ["created", "started", "completed"], language
                    assert (await scheduler.get(task.task_id)).result == value(3)
                after = await scheduler.create("four", kind=KIND)
                assert [event.WhichOneof("change") for event in await scheduler.watch(after.task_id)][-1] == "completed"

        await asyncio.gather(*(check(language) for language in BUILDS))


async def test_example_workers_use_dependencies_signals_and_the_time_that_remains(
    scheduler_settings: MakeSettings, scheduler_tls: Path, worker_commands: dict[str, list[str]], tmp_path: Path
) -> None:
    settings = scheduler_settings(lease_seconds=8.0, heartbeat_seconds=1.0)
    async with running(open_service, settings, scheduler_tls) as server, gateway(server.running.port, scheduler_tls) as url:

        async def check(language: str) -> None:
            scheduler = Scheduler(server, Principal("ada", unique(language), frozenset({"user"})))
            async with working(worker_commands[language], url, scheduler.ada, tmp_path):
                # The attempt's limit is 6 s, and it would take a minute.
                long = await scheduler.create(
                    kind=KIND, context={"seconds": 60}, attempt_timeout=Duration(seconds=6), max_attempts=1
                )
                before = await scheduler.create("one two three", kind=KIND)
                after = await scheduler.create(
                    "four five",
                    kind=KIND,
                    context={"ask": True},
                    dependencies=[task_pb2.TaskDependency(task_id=before.task_id, name="before")],
                )
                await scheduler.until_event(after.task_id, "waiting")
                waits = await scheduler.get(after.task_id)
                assert (waits.waiting_for.signal, waits.waiting_for.prompt) == ("approval", "Which words count, too?"), language
                # A worker with four places runs four others while it waits.
                others = [await scheduler.create("x", kind=KIND, context={"seconds": 0.2}) for _ in range(3)]
                for task in others:
                    assert (await scheduler.watch(task.task_id))[-1].WhichOneof("change") == "completed", language
                signal = pb.SignalTaskRequest(task_id=after.task_id, signal="approval", value=value("six seven eight"))
                await scheduler.stub.SignalTask(signal, metadata=metadata(scheduler.ada))
                events = [event.WhichOneof("change") for event in await scheduler.watch(after.task_id)]
                assert events[-3:] == ["ready", "started", "completed"], language
                assert (await scheduler.get(after.task_id)).result == value(3 + 2 + 3), language
                # Stopped by itself: the scheduler would have said ATTEMPT_TIMEOUT.
                assert (await scheduler.watch(long.task_id))[-1].failed.reason == "OUT_OF_TIME", language

        await asyncio.gather(*(check(language) for language in BUILDS))
