"""Where the parts of the agent api are chosen and put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from guildmesh.agent.v1.agent_service_pb2_grpc import add_AgentServiceServicer_to_server

from services.agent.adapters.memory_service import MemoryServiceConversations
from services.agent.adapters.model_orchestrator import open_language_model
from services.agent.adapters.scheduler_service import SchedulerRuns
from services.agent.server.servicer import AgentServicer, UseCases
from services.agent.settings import AgentSettings
from services.agent.storage.agent_repository import PostgresAgentRepository
from services.agent.storage.scenario_repository import PostgresScenarioRepository
from services.agent.usecases.create_agent import CreateAgent
from services.agent.usecases.create_scenario import CreateScenario
from services.agent.usecases.get_agent import GetAgent
from services.agent.usecases.get_scenario import GetScenario
from services.agent.usecases.list_agents import ListAgents
from services.agent.usecases.list_scenarios import ListScenarios
from services.agent.usecases.run_scenario import RunScenario
from services.agent.usecases.send_chat import SendChat
from services.common.db.database import open_database
from services.common.grpcx.channel import open_channel
from services.common.grpcx.server import Registration
from services.common.service import Service

SCHEMA = "agent"


@asynccontextmanager
async def open_service(settings: AgentSettings) -> AsyncIterator[Service]:
    """One api process. It is ready when its database is: a chat without a model, or a run without the scheduler, is told so."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings, SCHEMA))
        memory = await stack.enter_async_context(open_channel(settings, "memory"))
        scheduler = await stack.enter_async_context(open_channel(settings, "scheduler"))
        model = await stack.enter_async_context(open_language_model(settings))
        agents = PostgresAgentRepository(database)
        scenarios = PostgresScenarioRepository(database)
        usecases = UseCases(
            send_chat=SendChat(MemoryServiceConversations(memory), model),
            create_agent=CreateAgent(agents),
            get_agent=GetAgent(agents),
            list_agents=ListAgents(agents),
            create_scenario=CreateScenario(scenarios, agents),
            get_scenario=GetScenario(scenarios),
            list_scenarios=ListScenarios(scenarios),
            run_scenario=RunScenario(scenarios, agents, SchedulerRuns(scheduler)),
        )
        yield Service(
            name="agent",
            registrations=[
                Registration(add_AgentServiceServicer_to_server, AgentServicer(usecases), "guildmesh.agent.v1.AgentService")
            ],
            checks={"database": database.check},
        )
