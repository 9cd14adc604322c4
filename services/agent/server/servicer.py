"""AgentService: messages in, use case, messages out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import grpc
from guildmesh.agent.v1 import agent_pb2, agent_service_pb2_grpc
from guildmesh.agent.v1 import agent_service_pb2 as pb
from guildmesh.scheduler.v1 import task_pb2

from services.agent.server.convert import agent_from_proto, agent_to_proto, scenario_from_proto, scenario_to_proto
from services.agent.usecases.create_agent import CreateAgent
from services.agent.usecases.create_scenario import CreateScenario
from services.agent.usecases.get_agent import GetAgent
from services.agent.usecases.get_scenario import GetScenario
from services.agent.usecases.list_agents import ListAgents
from services.agent.usecases.list_scenarios import ListScenarios
from services.agent.usecases.run_scenario import RunScenario
from services.agent.usecases.send_chat import SendChat
from services.common.context import current_call
from services.common.structs import struct_to_json

_Context = grpc.aio.ServicerContext[object, object]


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the servicer calls, one for each RPC."""

    send_chat: SendChat
    create_agent: CreateAgent
    get_agent: GetAgent
    list_agents: ListAgents
    create_scenario: CreateScenario
    get_scenario: GetScenario
    list_scenarios: ListScenarios
    run_scenario: RunScenario[task_pb2.Task]


class AgentServicer(agent_service_pb2_grpc.AgentServiceServicer):
    """Serves AgentService for the current caller's tenant."""

    def __init__(self, usecases: UseCases) -> None:
        self._use = usecases

    async def SendChat(self, request: pb.SendChatRequest, context: _Context) -> pb.SendChatResponse:
        """POST /chat."""
        deadline = current_call().deadline
        timeout = None if deadline is None else deadline - asyncio.get_running_loop().time()
        answer = await self._use.send_chat(request.message, request.conversation_id or None, timeout)
        completion = answer.completion
        return pb.SendChatResponse(
            response=completion.text,
            conversation_id=answer.conversation_id,
            provider=completion.provider,
            model=completion.model,
            usage=agent_pb2.TokenUsage(input_tokens=completion.input_tokens, output_tokens=completion.output_tokens),
        )

    async def CreateAgent(self, request: pb.CreateAgentRequest, context: _Context) -> agent_pb2.Agent:
        """POST /v1/agents."""
        return agent_to_proto(await self._use.create_agent(_tenant(), agent_from_proto(request.agent)))

    async def GetAgent(self, request: pb.GetAgentRequest, context: _Context) -> agent_pb2.Agent:
        """GET /v1/agents/{agent_id}."""
        return agent_to_proto(await self._use.get_agent(_tenant(), request.agent_id))

    async def ListAgents(self, request: pb.ListAgentsRequest, context: _Context) -> pb.ListAgentsResponse:
        """GET /v1/agents."""
        agents, token = await self._use.list_agents(_tenant(), request.page_size, request.page_token)
        return pb.ListAgentsResponse(agents=[agent_to_proto(agent) for agent in agents], next_page_token=token)

    async def CreateScenario(self, request: pb.CreateScenarioRequest, context: _Context) -> agent_pb2.Scenario:
        """POST /v1/scenarios."""
        return scenario_to_proto(await self._use.create_scenario(_tenant(), scenario_from_proto(request.scenario)))

    async def GetScenario(self, request: pb.GetScenarioRequest, context: _Context) -> agent_pb2.Scenario:
        """GET /v1/scenarios/{scenario_id}."""
        return scenario_to_proto(await self._use.get_scenario(_tenant(), request.scenario_id))

    async def ListScenarios(self, request: pb.ListScenariosRequest, context: _Context) -> pb.ListScenariosResponse:
        """GET /v1/scenarios."""
        scenarios, token = await self._use.list_scenarios(_tenant(), request.page_size, request.page_token)
        return pb.ListScenariosResponse(scenarios=[scenario_to_proto(it) for it in scenarios], next_page_token=token)

    async def RunScenario(self, request: pb.RunScenarioRequest, context: _Context) -> task_pb2.Task:
        """POST /v1/scenarios/{scenario_id}:run."""
        return await self._use.run_scenario(
            _tenant(),
            request.scenario_id,
            struct_to_json(request.inputs),
            request.request_id,
            request.timeout if request.HasField("timeout") else None,
        )


def _tenant() -> str:
    return current_call().principal.tenant_id
