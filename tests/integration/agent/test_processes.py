"""The processes of the agent service: a killed worker, and api processes on one port."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import psutil
import pytest
from google.protobuf import json_format
from guildmesh.agent.v1 import agent_service_pb2 as pb
from guildmesh.agent.v1 import agent_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2 as scheduler_pb
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.tool.v1 import tool_service_pb2 as tool_pb

from services.common.grpcx.channel import secure_channel
from services.embedded.ports import free_ports
from tests.integration.agent.conftest import Mesh, Tenant
from tests.support.language_model import says
from tests.support.scenarios import FACTS, TEAMWORK

pytestmark = pytest.mark.asyncio(loop_scope="package")


@asynccontextmanager
async def process(mesh: Mesh, module: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of the agent service, killed at the end."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, env={**os.environ, **mesh.environment, **environment}
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


async def get(port: int, path: str, status: int = 200) -> httpx.Response:
    """A page of an admin port, once it has the status."""
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(40):
        while True:
            try:
                response = await client.get(f"http://127.0.0.1:{port}{path}")
                if response.status_code == status:
                    return response
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


async def test_a_run_ends_right_when_its_worker_is_killed_in_the_middle(mesh: Mesh, tenant: Tenant) -> None:
    await tenant.create_team()
    await mesh.agent.CreateScenario(pb.CreateScenarioRequest(scenario=TEAMWORK), metadata=tenant.metadata)
    mesh.model.answer = says("Survived.")
    mesh.model.gate = asyncio.Event()
    ports = free_ports(2)
    async with process(mesh, "services.agent.worker", GUILDMESH_ADMIN_PORT=str(ports[0])) as first:
        run = await tenant.run("teamwork", facts=FACTS, numbers=[60, 60])
        # By its prompt: the worker may find tasks of earlier tests in the queues, which ask the model too.
        async with asyncio.timeout(60):
            await mesh.model.wait_for_prompt("The total is 120")
        first.kill()
        await first.wait()
    mesh.model.gate.set()
    async with process(mesh, "services.agent.worker", GUILDMESH_ADMIN_PORT=str(ports[1])):
        ended = await tenant.ended(run.task_id)
    assert ended.state == task_pb2.TASK_STATE_COMPLETED, ended.error
    assert ended.attempt == 2
    assert json_format.MessageToDict(ended.result)["result"]["text"] == "120: Survived."
    steps = {task.labels["step_id"]: task for task in await tenant.subtasks(run.task_id)}
    assert len(await tenant.subtasks(run.task_id)) == 4
    assert {name: task.attempt for name, task in steps.items()} == {"keep": 1, "find": 1, "sum": 1, "write": 2}
    usages = await mesh.tool.ListToolUsages(tool_pb.ListToolUsagesRequest(task_id=steps["sum"].task_id), metadata=tenant.metadata)
    assert len(usages.tool_usages) == 1


async def test_a_worker_that_is_asked_to_stop_gives_its_tasks_back_and_ends(mesh: Mesh, tenant: Tenant) -> None:
    await tenant.create_team()
    await mesh.agent.CreateScenario(pb.CreateScenarioRequest(scenario=TEAMWORK), metadata=tenant.metadata)
    mesh.model.gate = asyncio.Event()
    ports = free_ports(2)
    async with process(mesh, "services.agent.worker", GUILDMESH_ADMIN_PORT=str(ports[0])) as first:
        await get(ports[0], "/ready")
        run = await tenant.run("teamwork", facts=FACTS, numbers=[60, 60])
        async with asyncio.timeout(60):
            await mesh.model.wait_for_prompt("The total is 120")
        first.terminate()
        async with asyncio.timeout(20):
            assert await first.wait() == 0
    mesh.model.gate.set()
    async with process(mesh, "services.agent.worker", GUILDMESH_ADMIN_PORT=str(ports[1])):
        ended = await tenant.ended(run.task_id)
    assert ended.state == task_pb2.TASK_STATE_COMPLETED, ended.error
    assert len(await tenant.subtasks(run.task_id)) == 4


async def test_api_processes_share_a_port_and_are_replaced_when_they_die(mesh: Mesh, tenant: Tenant) -> None:
    port, admin_port = free_ports(2)
    ours: dict[str, Any] = {"GUILDMESH_PORT": str(port), "GUILDMESH_ADMIN_PORT": str(admin_port), "API_WORKERS": "2"}
    async with process(mesh, "services.agent", **ours) as supervisor:
        await get(admin_port, "/ready")
        children = psutil.Process(supervisor.pid).children()
        assert len(children) == 2
        # Each channel is a connection of its own, so that the kernel spreads them.
        for _ in range(8):
            async with secure_channel(f"localhost:{port}", "agent", mesh.settings.tls_dir.parent / "gateway") as channel:
                await pb_grpc.AgentServiceStub(channel).ListAgents(pb.ListAgentsRequest(), metadata=tenant.metadata)
        page = (await get(admin_port, "/metrics")).text
        assert 'agent_requests_total{endpoint="/v1/agents",method="GET",status="200"} 8.0' in page
        children[0].kill()
        await get(admin_port, "/ready", 503)
        await get(admin_port, "/ready")
        assert children[1].pid in {child.pid for child in psutil.Process(supervisor.pid).children()}
        supervisor.terminate()
        async with asyncio.timeout(30):
            assert await supervisor.wait() == 0
    assert not any(child.is_running() for child in children)


async def test_api_processes_end_when_their_supervisor_is_killed(mesh: Mesh) -> None:
    port, admin_port = free_ports(2)
    ours = {"GUILDMESH_PORT": str(port), "GUILDMESH_ADMIN_PORT": str(admin_port), "API_WORKERS": "2"}
    async with process(mesh, "services.agent", **ours) as supervisor:
        await get(admin_port, "/ready")
        children = psutil.Process(supervisor.pid).children()
        os.kill(supervisor.pid, signal.SIGKILL)
        await supervisor.wait()
    gone, alive = await asyncio.to_thread(psutil.wait_procs, children, 20)
    assert (len(gone), alive) == (2, [])


async def test_wrong_settings_are_told_and_end_with_exit_code_2(mesh: Mesh) -> None:
    environment = {**os.environ, **mesh.environment, "DEFAULT_LLM_PROVIDER": "oracle"}
    refused = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.agent", env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await refused.communicate()
    assert refused.returncode == 2
    assert b"DEFAULT_LLM_PROVIDER" in errors


async def test_a_port_that_someone_else_has_is_told(mesh: Mesh) -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    ours = {"GUILDMESH_PORT": str(port), "GUILDMESH_ADMIN_PORT": "0", "API_WORKERS": "2"}
    async with process(mesh, "services.agent", **ours) as supervisor, asyncio.timeout(30):
        assert await supervisor.wait() == 1
    server.close()


async def test_a_channel_with_another_services_certificate_is_refused(mesh: Mesh, tenant: Tenant) -> None:
    target = mesh.agent.ListAgents  # the stub of the gateway works; the same method as another service does not
    await target(pb.ListAgentsRequest(), metadata=tenant.metadata)
    port, admin_port = free_ports(2)
    ours = {"GUILDMESH_PORT": str(port), "GUILDMESH_ADMIN_PORT": str(admin_port), "API_WORKERS": "1"}
    async with process(mesh, "services.agent", **ours):
        await get(admin_port, "/ready")
        async with secure_channel(f"localhost:{port}", "agent", mesh.settings.tls_dir.parent / "memory") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await pb_grpc.AgentServiceStub(channel).ListAgents(pb.ListAgentsRequest())
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_worker_process_runs_no_more_tasks_at_once_than_it_may(mesh: Mesh, tenant: Tenant) -> None:
    """MAX_CONCURRENT_TASKS of requirement row 23."""
    mesh.model.gate = gate = asyncio.Event()
    request = scheduler_pb.BatchCreateTasksRequest()
    for number in range(12):
        request.requests.add(task=task_pb2.Task(description=f"Wait number {number}.", queue="research", priority=10))
    created = await mesh.scheduler.BatchCreateTasks(request, metadata=tenant.metadata)
    ids = [result.task_id for result in created.results]
    async with process(mesh, "services.agent.worker", MAX_CONCURRENT_TASKS="5", GUILDMESH_ADMIN_PORT=str(free_ports(1)[0])):
        async with asyncio.timeout(60):
            while len(mesh.model.requests) < 5:  # noqa: ASYNC110 - the worker is another process
                await asyncio.sleep(0.05)
        states = Counter(task.state for task in await tenant.listed())
        assert states == {task_pb2.TASK_STATE_RUNNING: 5, task_pb2.TASK_STATE_PENDING: 7}
        gate.set()
        for task_id in ids:
            assert (await tenant.ended(task_id)).state == task_pb2.TASK_STATE_COMPLETED
