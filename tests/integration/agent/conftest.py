"""The services that agents work with, all real, in this process; only the language model is a stub behind real HTTP."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from guildmesh.agent.v1 import agent_pb2
from guildmesh.agent.v1 import agent_service_pb2 as pb
from guildmesh.agent.v1 import agent_service_pb2_grpc as pb_grpc
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh.memory.v1 import memory_service_pb2_grpc as memory_grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2 as scheduler_pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as scheduler_grpc
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.tool.v1 import tool_service_pb2_grpc as tool_grpc
from pydantic import SecretStr

from services.agent.bootstrap import open_service as open_agent
from services.agent.settings import AgentSettings
from services.agent.worker.bootstrap import open_service as open_worker
from services.common.context import Principal
from services.common.db.migrations import migrate
from services.memory.bootstrap import open_service as open_memory
from services.memory.settings import ServingSettings as MemorySettings
from services.scheduler.bootstrap import open_service as open_scheduler
from services.scheduler.settings import SchedulerSettings
from services.tool.bootstrap import open_service as open_tool
from services.tool.settings import ToolSettings
from tests.support.language_model import StubLanguageModel, says, stub_language_model
from tests.support.service import mesh_certificates, metadata, running

RESEARCHER = agent_pb2.Agent(agent_id="researcher", agent_type="researcher", queue="research", instructions="You find facts.")
CODER = agent_pb2.Agent(agent_id="coder", agent_type="coder", queue="code", tools=["python"])
ANALYST = agent_pb2.Agent(agent_id="analyst", agent_type="analyst", queue="analysis", display_name="Analyst")


@pytest.fixture(scope="session")
def agent_tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mesh_certificates(tmp_path_factory.mktemp("agent-tls"))


@pytest.fixture(scope="session")
def common_settings(postgres_url: str, agent_tls: Path) -> Callable[[str], dict[str, Any]]:
    """Settings that every service shares, on free ports; all schemas are migrated."""

    def make(certificate: str) -> dict[str, Any]:
        return {
            "_env_file": None,
            "database_url": SecretStr(postgres_url),
            "tls_dir": agent_tls / certificate,
            "port": 0,
            "admin_port": 0,
            "db_pool_size": 3,
            "drain_seconds": 0,
        }

    for service, settings in (("agent", AgentSettings), ("scheduler", SchedulerSettings), ("tool", ToolSettings)):
        migrate(settings(**make(service)), package=f"services.{service}.storage.migrations", schema=service)
    migrate(MemorySettings(**make("memory")), package="services.memory.storage.migrations", schema="memory")
    return make


@dataclass
class Mesh:
    """The running services, and stubs of the gateway's to them."""

    agent: pb_grpc.AgentServiceAsyncStub
    scheduler: scheduler_grpc.SchedulerServiceAsyncStub
    scheduler_channel: grpc.aio.Channel
    memory: memory_grpc.MemoryServiceAsyncStub
    tool: tool_grpc.ToolServiceAsyncStub
    model: StubLanguageModel
    settings: AgentSettings
    """of the agent's processes: with the addresses of the others."""
    environment: dict[str, str] = field(default_factory=dict)
    """the same for a process of its own."""


class Tenant:
    """A user of a new tenant, and what it does on the mesh."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.principal = Principal("ada", f"t{uuid.uuid4().hex[:12]}", frozenset({"user"}))
        self.metadata = metadata(self.principal)

    async def create_team(self) -> None:
        """Creates the three agents."""
        for agent in (RESEARCHER, CODER, ANALYST):
            await self.mesh.agent.CreateAgent(pb.CreateAgentRequest(agent=agent), metadata=self.metadata)

    async def run(self, scenario_id: str, request_id: str = "", **inputs: Any) -> task_pb2.Task:
        """Starts a run."""
        request = pb.RunScenarioRequest(scenario_id=scenario_id, request_id=request_id, timeout=60)
        request.inputs.update(inputs)
        return await self.mesh.agent.RunScenario(request, metadata=self.metadata)

    async def events(self, task_id: str) -> list[TaskEvent]:
        """All events of the task once it has ended."""
        request = scheduler_pb.WatchTaskRequest(task_id=task_id)
        return [event async for event in self.mesh.scheduler.WatchTask(request, metadata=self.metadata, timeout=100)]

    async def ended(self, task_id: str) -> task_pb2.Task:
        """The task once it has ended."""
        await self.events(task_id)
        return await self.mesh.scheduler.GetTask(scheduler_pb.GetTaskRequest(task_id=task_id), metadata=self.metadata)

    async def listed(self) -> list[task_pb2.Task]:
        """All tasks of the tenant."""
        return list((await self.mesh.scheduler.ListTasks(scheduler_pb.ListTasksRequest(), metadata=self.metadata)).tasks)

    async def subtasks(self, task_id: str) -> list[task_pb2.Task]:
        """The steps of a run, oldest first."""
        request = scheduler_pb.ListTasksRequest(parent_task_id=task_id)
        page = await self.mesh.scheduler.ListTasks(request, metadata=self.metadata)
        return list(reversed(page.tasks))


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def mesh(
    common_settings: Callable[[str], dict[str, Any]], agent_tls: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mesh]:
    """Scheduler, tool, memory and the agent's api; no worker."""
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(stub_language_model())
        scheduler = await stack.enter_async_context(
            running(
                open_scheduler,
                SchedulerSettings(
                    **common_settings("scheduler"),
                    lease_seconds=2.0,
                    heartbeat_seconds=0.5,
                    sweep_seconds=0.2,
                    object_store_url=tmp_path_factory.mktemp("objects").as_uri(),
                ),
                agent_tls,
            )
        )
        memory = await stack.enter_async_context(running(open_memory, MemorySettings(**common_settings("memory")), agent_tls))
        tool = await stack.enter_async_context(
            running(open_tool, ToolSettings(**common_settings("tool"), scheduler_target=scheduler.target), agent_tls)
        )
        targets: dict[str, Any] = {"scheduler": scheduler.target, "memory": memory.target, "tool": tool.target}
        settings = AgentSettings(
            **common_settings("agent"),
            **{f"{name}_target": target for name, target in targets.items()},
            api_workers=1,
            openai_api_key=None,
            openai_base_url=None,
            local_llm_url=model.url,
        )
        agent = await stack.enter_async_context(running(open_agent, settings, agent_tls))
        yield Mesh(
            agent=pb_grpc.AgentServiceStub(agent.channel()),
            scheduler=scheduler_grpc.SchedulerServiceStub(scheduler.channel()),
            scheduler_channel=scheduler.channel(),
            memory=memory_grpc.MemoryServiceStub(memory.channel()),
            tool=tool_grpc.ToolServiceStub(tool.channel()),
            model=model,
            settings=settings,
            environment={
                **{f"GUILDMESH_{name.upper()}_TARGET": target for name, target in targets.items()},
                "DATABASE_URL": settings.database_url.get_secret_value(),
                "GUILDMESH_TLS_DIR": str(settings.tls_dir),
                "GUILDMESH_LOCAL_LLM_URL": model.url,
                "GUILDMESH_DRAIN_SECONDS": "0",
                "OPENAI_API_KEY": "",
                "OPENAI_BASE_URL": "",
            },
        )


@pytest_asyncio.fixture(loop_scope="package")
async def worker(mesh: Mesh, agent_tls: Path) -> AsyncIterator[None]:
    """An agent worker in this process, for one test."""
    async with running(open_worker, mesh.settings, agent_tls):
        yield


@pytest.fixture
def tenant(mesh: Mesh) -> Tenant:
    """A user of a new tenant; the stubbed model is as new."""
    mesh.model.answers.clear()
    mesh.model.requests.clear()
    mesh.model.answer = says("An answer.")
    mesh.model.gate = None
    return Tenant(mesh)


@pytest.fixture
def other_tenant(mesh: Mesh) -> Tenant:
    """A user of another new tenant."""
    return Tenant(mesh)
