"""AgentService over mutual TLS and a real database: agents, scenarios, chat, tenants."""

from __future__ import annotations

import grpc
import pytest
from guildmesh.agent.v1 import agent_pb2
from guildmesh.agent.v1 import agent_service_pb2 as pb
from guildmesh.memory.v1 import memory_service_pb2 as memory_pb
from sqlalchemy import text

from services.common.db.database import open_database
from services.common.grpcx.status import error_info
from tests.integration.agent.conftest import CODER, Mesh, Tenant
from tests.support.language_model import fails, says
from tests.support.scenarios import TEAMWORK

pytestmark = pytest.mark.asyncio(loop_scope="package")


def refused(error: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> tuple[grpc.StatusCode, str]:
    return error.value.code(), error_info(error.value)[0]


async def create(tenant: Tenant, scenario: agent_pb2.Scenario) -> agent_pb2.Scenario:
    return await tenant.mesh.agent.CreateScenario(pb.CreateScenarioRequest(scenario=scenario), metadata=tenant.metadata)


async def test_an_agent_is_kept_as_it_was_sent(mesh: Mesh, tenant: Tenant) -> None:
    await tenant.create_team()
    agent = await mesh.agent.GetAgent(pb.GetAgentRequest(agent_id="coder"), metadata=tenant.metadata)
    assert agent.HasField("create_time")
    agent.ClearField("create_time")
    assert agent == CODER


async def test_an_agent_exists_once(mesh: Mesh, tenant: Tenant) -> None:
    await tenant.create_team()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await mesh.agent.CreateAgent(pb.CreateAgentRequest(agent=CODER), metadata=tenant.metadata)
    assert refused(error) == (grpc.StatusCode.ALREADY_EXISTS, "AGENT_ALREADY_EXISTS")


async def test_agents_are_listed_by_id_page_by_page(mesh: Mesh, tenant: Tenant) -> None:
    await tenant.create_team()
    first = await mesh.agent.ListAgents(pb.ListAgentsRequest(page_size=2), metadata=tenant.metadata)
    assert [agent.agent_id for agent in first.agents] == ["analyst", "coder"]
    request = pb.ListAgentsRequest(page_size=2, page_token=first.next_page_token)
    last = await mesh.agent.ListAgents(request, metadata=tenant.metadata)
    assert ([agent.agent_id for agent in last.agents], last.next_page_token) == (["researcher"], "")


async def test_a_scenario_is_kept_as_it_was_sent(mesh: Mesh, tenant: Tenant) -> None:
    await tenant.create_team()
    await create(tenant, TEAMWORK)
    kept = await mesh.agent.GetScenario(pb.GetScenarioRequest(scenario_id="teamwork"), metadata=tenant.metadata)
    listed = await mesh.agent.ListScenarios(pb.ListScenariosRequest(), metadata=tenant.metadata)
    assert list(listed.scenarios) == [kept]
    kept.ClearField("create_time")
    assert kept == TEAMWORK
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await create(tenant, TEAMWORK)
    assert refused(error) == (grpc.StatusCode.ALREADY_EXISTS, "SCENARIO_ALREADY_EXISTS")


async def test_a_scenario_with_a_circle_is_refused_with_the_circle(tenant: Tenant) -> None:
    await tenant.create_team()
    circle = agent_pb2.Scenario()
    circle.CopyFrom(TEAMWORK)
    circle.steps[0].needs.append("write")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await create(tenant, circle)
    assert refused(error) == (grpc.StatusCode.INVALID_ARGUMENT, "SCENARIO_INVALID")
    assert error.value.details() == "The steps need each other in a circle: keep → write → sum → find → keep."


async def test_a_scenario_of_unknown_agents_is_refused(tenant: Tenant) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="unknown agent 'researcher'"):
        await create(tenant, TEAMWORK)


@pytest.mark.parametrize("method", ["GetAgent", "GetScenario", "RunScenario"])
async def test_what_another_tenant_has_looks_like_unknown(mesh: Mesh, tenant: Tenant, other_tenant: Tenant, method: str) -> None:
    await tenant.create_team()
    await create(tenant, TEAMWORK)
    requests = {
        "GetAgent": pb.GetAgentRequest(agent_id="coder"),
        "GetScenario": pb.GetScenarioRequest(scenario_id="teamwork"),
        "RunScenario": pb.RunScenarioRequest(scenario_id="teamwork"),
    }
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await getattr(mesh.agent, method)(requests[method], metadata=other_tenant.metadata)
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert "list the agents" in str(error.value.details()) or "create it" in str(error.value.details())


async def test_row_security_holds_without_the_where_clause(mesh: Mesh, tenant: Tenant, other_tenant: Tenant) -> None:
    await tenant.create_team()
    await create(tenant, TEAMWORK)
    async with open_database(mesh.settings, "agent") as database:
        for table in ("agents", "scenarios"):
            async with database.tenant(other_tenant.principal.tenant_id) as connection:
                assert (await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one() == 0
            async with database.tenant(tenant.principal.tenant_id) as connection:
                assert (await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one() > 0


async def test_a_chat_starts_a_conversation_and_goes_on_with_it(mesh: Mesh, tenant: Tenant) -> None:
    mesh.model.answers = [says("Hello Ada.", model="tiny"), says("Your name is Ada.")]
    first = await mesh.agent.SendChat(pb.SendChatRequest(message="I am Ada."), metadata=tenant.metadata)
    assert (first.response, first.provider, first.model) == ("Hello Ada.", "local", "tiny")
    assert (first.usage.input_tokens, first.usage.output_tokens) == (7, 5)
    request = pb.SendChatRequest(message="Who am I?", conversation_id=first.conversation_id)
    second = await mesh.agent.SendChat(request, metadata=tenant.metadata)
    assert (second.response, second.conversation_id) == ("Your name is Ada.", first.conversation_id)
    assert [message["content"] for message in mesh.model.requests[1]["messages"]][1:] == ["I am Ada.", "Hello Ada.", "Who am I?"]
    kept = await mesh.memory.ListMessages(
        memory_pb.ListMessagesRequest(conversation_id=first.conversation_id), metadata=tenant.metadata
    )
    assert [(message.number, message.role) for message in kept.messages] == [
        (4, "assistant"),
        (3, "user"),
        (2, "assistant"),
        (1, "user"),
    ]


@pytest.mark.parametrize("unknown", ["01990000-0000-7000-8000-000000000000", "-", "no-such-thing"])
async def test_an_unknown_conversation_is_not_found(mesh: Mesh, tenant: Tenant, unknown: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await mesh.agent.SendChat(pb.SendChatRequest(message="Hi", conversation_id=unknown), metadata=tenant.metadata)
    assert refused(error) == (grpc.StatusCode.NOT_FOUND, "CONVERSATION_NOT_FOUND")
    assert error_info(error.value)[1] == {"conversation_id": unknown}


async def test_a_conversation_of_another_tenant_is_not_found(mesh: Mesh, tenant: Tenant, other_tenant: Tenant) -> None:
    first = await mesh.agent.SendChat(pb.SendChatRequest(message="I am Ada."), metadata=tenant.metadata)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        request = pb.SendChatRequest(message="Who am I?", conversation_id=first.conversation_id)
        await mesh.agent.SendChat(request, metadata=other_tenant.metadata)
    assert refused(error) == (grpc.StatusCode.NOT_FOUND, "CONVERSATION_NOT_FOUND")


async def test_a_model_that_refuses_is_unavailable_with_the_time_to_retry(mesh: Mesh, tenant: Tenant) -> None:
    mesh.model.answer = fails(400)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await mesh.agent.SendChat(pb.SendChatRequest(message="Hi"), metadata=tenant.metadata)
    assert refused(error) == (grpc.StatusCode.UNAVAILABLE, "MODEL_UNAVAILABLE")
    page = await mesh.memory.ListConversations(memory_pb.ListConversationsRequest(), metadata=tenant.metadata)
    assert list(page.conversations) == []
