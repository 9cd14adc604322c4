"""The process `python -m services.tool` when it is killed, stopped, or told nonsense."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from guildmesh.tool.v1 import tool_service_pb2 as pb
from guildmesh.tool.v1 import tool_service_pb2_grpc as pb_grpc

from services.common.db.database import Database
from services.common.grpcx.channel import secure_channel
from services.embedded.ports import free_port
from tests.contract.tool.conditions import until
from tests.integration.tool.conftest import Make, someone, struct
from tests.integration.tool.test_ledger import die
from tests.integration.tool.test_tool_service import reason
from tests.support.service import metadata

SLOW = "import time\ntime.sleep(60)"


@contextmanager
def tool_process(settings: Make, tls: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    port = free_port()
    environment = {
        **os.environ,
        "DATABASE_URL": settings().database_url.get_secret_value(),
        "GUILDMESH_TLS_DIR": str(tls / "tool"),
        "GUILDMESH_PORT": str(port),
        "GUILDMESH_ADMIN_PORT": "0",
        "GUILDMESH_DRAIN_SECONDS": "0.2",
        "GUILDMESH_SANDBOX": "bubblewrap",
        "GUILDMESH_SANDBOX_WARM": "1",
    }
    process = subprocess.Popen([sys.executable, "-m", "services.tool"], env=environment, stdout=subprocess.DEVNULL)
    try:
        yield process, port
    finally:
        process.kill()
        process.wait(timeout=20)


async def connected(port: int, tls: Path) -> grpc.aio.Channel:
    channel = secure_channel(f"localhost:{port}", "tool", tls / "gateway")
    stub = pb_grpc.ToolServiceStub(channel)
    async with asyncio.timeout(30):
        await stub.ListTools(pb.ListToolsRequest(), metadata=metadata(someone()), wait_for_ready=True)
    return channel


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_a_run_that_is_cut_off_leaves_no_process_and_is_never_repeated_by_itself(
    make_settings: Make, tool_tls: Path, database: Database, end: signal.Signals
) -> None:
    principal = someone()
    caller = metadata(principal)
    request = pb.ExecuteToolRequest(tool_name="slow", arguments=struct({}), task_id="t", attempt=1, step_id="s")
    with tool_process(make_settings, tool_tls) as (process, port):
        channel = await connected(port, tool_tls)
        stub = pb_grpc.ToolServiceStub(channel)
        tool = pb.Tool(tool_name="slow", description="Sleeps.", source=SLOW, effect=pb.TOOL_EFFECT_ONCE)
        await stub.CreateTool(pb.CreateToolRequest(tool=tool), metadata=caller)
        call = asyncio.create_task(_execute(stub, request, caller))
        async with asyncio.timeout(30):
            while not (await stub.ListToolUsages(pb.ListToolUsagesRequest(), metadata=caller)).tool_usages:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        own = psutil.Process(process.pid)
        await until(lambda: any("bwrap" in child.name() for child in own.children(recursive=True)))
        started = own.children(recursive=True)
        process.send_signal(end)
        assert await asyncio.to_thread(process.wait, 20) in (0, -signal.SIGKILL)
        await until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in started))
        assert await call is None
        await channel.close()
    if end is signal.SIGKILL:
        await die(database, principal.tenant_id)
    with tool_process(make_settings, tool_tls) as (_, port):
        channel = await connected(port, tool_tls)
        stub = pb_grpc.ToolServiceStub(channel)
        request.attempt = 2
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await stub.ExecuteTool(request, metadata=caller)
        assert reason(unknown.value)[:2] == ("FAILED_PRECONDITION", "TOOL_OUTCOME_UNKNOWN")
        (usage,) = (await stub.ListToolUsages(pb.ListToolUsagesRequest(), metadata=caller)).tool_usages
        assert usage.state == pb.TOOL_USAGE_STATE_UNKNOWN
        await channel.close()


async def _execute(
    stub: pb_grpc.ToolServiceAsyncStub, request: pb.ExecuteToolRequest, caller: tuple[tuple[str, str], ...]
) -> pb.ExecuteToolResponse | None:
    try:
        return await stub.ExecuteTool(request, metadata=caller)
    except grpc.aio.AioRpcError:
        return None


@pytest.mark.parametrize(
    ("name", "value"), [("GUILDMESH_SANDBOX", "none"), ("GUILDMESH_SANDBOX_CONCURRENCY", "0"), ("GUILDMESH_SANDBOX_WARM", "x")]
)
def test_a_wrong_setting_ends_the_process_with_a_line_that_names_it(name: str, value: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "services.tool"], env={**os.environ, name: value}, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert name in result.stderr
    assert result.stderr.count("\n") == 1
