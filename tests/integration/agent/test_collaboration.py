"""Several agents work together over the real scheduler, sandbox and memory (requirement rows 17 and 24)."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from guildmesh.agent.v1 import agent_pb2
from guildmesh.agent.v1 import agent_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2 as scheduler_pb
from guildmesh.scheduler.v1 import task_graph_pb2, task_pb2
from guildmesh.tool.v1 import tool_service_pb2 as tool_pb
from guildmesh_client.payloads import download_json, upload_json
from prometheus_client import REGISTRY

from services.common.grpcx.status import error_info
from tests.integration.agent.conftest import Mesh, Tenant
from tests.support.language_model import fails, says
from tests.support.scenarios import FACTS, TEAMWORK

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def create(tenant: Tenant, scenario: agent_pb2.Scenario) -> None:
    await tenant.mesh.agent.CreateScenario(pb.CreateScenarioRequest(scenario=scenario), metadata=tenant.metadata)


@pytest.mark.usefixtures("worker")
async def test_three_agents_finish_a_job_together(mesh: Mesh, tenant: Tenant) -> None:
    await tenant.create_team()
    await create(tenant, TEAMWORK)
    mesh.model.answer = says("The goal was met.", prompt_tokens=30, completion_tokens=6)
    run = await tenant.run("teamwork", facts=FACTS, numbers=[40, 50, 60])
    assert (run.kind, run.state) == ("agent.scenario", task_pb2.TASK_STATE_PENDING)
    ended = await tenant.ended(run.task_id)
    assert ended.state == task_pb2.TASK_STATE_COMPLETED, ended.error
    result = json_format.MessageToDict(ended.result)
    assert result["success"] is True
    assert result["result"] == {"total": 150, "text": "150: The goal was met."}
    assert (result["model_calls"], result["input_tokens"], result["output_tokens"]) == (1, 30, 6)
    assert mesh.model.prompts() == ["The total is 150. Comment on it."]
    steps = {task.labels["step_id"]: task for task in await tenant.subtasks(run.task_id)}
    assert {name: task.queue for name, task in steps.items()} == {
        "keep": "research",
        "find": "research",
        "sum": "code",
        "write": "analysis",
    }
    assert all(task.created_by == "ada" and task.attempt == 1 for task in steps.values())
    assert {name: step["task_id"] for name, step in result["steps"].items()} == {
        name: task.task_id for name, task in steps.items()
    }
    usages = await mesh.tool.ListToolUsages(tool_pb.ListToolUsagesRequest(task_id=steps["sum"].task_id), metadata=tenant.metadata)
    assert [(usage.tool_name, usage.step_id, usage.username) for usage in usages.tool_usages] == [("python", "sum", "ada")]
    assert (REGISTRY.get_sample_value("agent_active_count", {"agent_type": "coder"}) or 0) >= 1


@pytest.mark.usefixtures("worker")
async def test_a_run_can_be_followed_in_the_events_of_its_tasks(mesh: Mesh, tenant: Tenant) -> None:
    await tenant.create_team()
    await create(tenant, TEAMWORK)
    mesh.model.answer = says("The goal was met.")
    run = await tenant.run("teamwork", facts=FACTS, numbers=[40, 50, 60])
    told = [
        event for event in await tenant.events(run.task_id) if event.HasField("child_created") or event.HasField("child_ended")
    ]
    steps = {task.labels["step_id"]: task.task_id for task in await tenant.subtasks(run.task_id)}
    assert {event.child_created.child_task_id for event in told if event.HasField("child_created")} == set(steps.values())
    ended = [event.child_ended for event in told if event.HasField("child_ended")]
    assert {each.child_task_id: each.state for each in ended} == dict.fromkeys(steps.values(), "COMPLETED")
    # The model's answer while it comes, and the tool that the coder called.
    writing = [event.output.text for event in await tenant.events(steps["write"]) if event.HasField("output")]
    assert "".join(writing) == "The goal was met."
    changes = [event.WhichOneof("change") for event in await tenant.events(steps["sum"])]
    assert changes == ["created", "started", "tool_called", "tool_returned", "completed"]


@pytest.mark.usefixtures("worker")
async def test_a_repeat_of_a_run_with_the_same_request_id_is_the_same_run(tenant: Tenant) -> None:
    await tenant.create_team()
    await create(tenant, TEAMWORK)
    first = await tenant.run("teamwork", "run-1", facts=FACTS, numbers=[1, 2])
    again = await tenant.run("teamwork", "run-1", facts=FACTS, numbers=[1, 2])
    assert again.task_id == first.task_id
    assert (await tenant.ended(first.task_id)).state == task_pb2.TASK_STATE_COMPLETED
    assert len(await tenant.subtasks(first.task_id)) == 4
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await tenant.run("teamwork", "run-1", facts=FACTS, numbers=[3])
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert error_info(refused.value)[0] == "REQUEST_ID_REUSED"


@pytest.mark.usefixtures("worker")
async def test_a_step_whose_code_fails_fails_the_run_by_name(tenant: Tenant) -> None:
    await tenant.create_team()
    await create(tenant, TEAMWORK)
    run = await tenant.run("teamwork", facts=["There is no number here."], numbers=[1])
    ended = await tenant.ended(run.task_id)
    assert ended.state == task_pb2.TASK_STATE_FAILED
    assert ended.error.reason == "STEP_FAILED"
    assert ended.error.message.startswith("The step 'sum' of the agent 'coder' failed: TOOL_FAILED: The tool 'python' failed:")
    assert "StopIteration" in ended.error.message
    states = {task.labels["step_id"]: task.status for task in await tenant.subtasks(run.task_id)}
    assert states == {"keep": "completed", "find": "completed", "sum": "failed"}


@pytest.mark.usefixtures("worker")
async def test_a_step_goes_on_when_the_model_is_back(mesh: Mesh, tenant: Tenant) -> None:
    await tenant.create_team()
    await create(tenant, TEAMWORK)
    mesh.model.answers = [fails(503)]
    run = await tenant.run("teamwork", facts=FACTS, numbers=[200])
    ended = await tenant.ended(run.task_id)
    assert json_format.MessageToDict(ended.result)["result"]["text"] == "200: An answer."


@pytest.mark.usefixtures("worker")
async def test_cancelling_a_run_cancels_its_steps(mesh: Mesh, tenant: Tenant) -> None:
    await tenant.create_team()
    await create(tenant, TEAMWORK)
    mesh.model.gate = asyncio.Event()
    run = await tenant.run("teamwork", facts=FACTS, numbers=[17])
    async with asyncio.timeout(30):
        await mesh.model.wait_for_prompt("The total is 17")
    await mesh.scheduler.CancelTask(scheduler_pb.CancelTaskRequest(task_id=run.task_id, cause="enough"), metadata=tenant.metadata)
    assert (await tenant.ended(run.task_id)).state == task_pb2.TASK_STATE_CANCELLED
    mesh.model.gate.set()
    states = {task.labels["step_id"]: task.status for task in await tenant.subtasks(run.task_id)}
    assert states["write"] == "cancelled"


@pytest.mark.usefixtures("worker")
async def test_a_task_is_answered_by_the_language_model_with_its_context(mesh: Mesh, tenant: Tenant) -> None:
    mesh.model.answer = says("Green, black, herbal.", model="tiny")
    request = scheduler_pb.SubmitTaskRequest(task="Name three kinds of tea.")
    request.context.update({"shop": "ours", "year": 2026})
    submitted = await mesh.scheduler.SubmitTask(request, metadata=tenant.metadata)
    assert submitted.status == "pending"
    ended = await tenant.ended(submitted.task_id)
    assert json_format.MessageToDict(ended.result) == {
        "response": "Green, black, herbal.",
        "provider": "local",
        "model": "tiny",
        "input_tokens": 7,
        "output_tokens": 5,
    }
    assert mesh.model.prompts() == ['Context:\n{"shop":"ours","year":2026}\n\nTask:\nName three kinds of tea.']


@pytest.mark.usefixtures("worker")
async def test_a_task_past_its_timeout_fails_with_a_timeout(mesh: Mesh, tenant: Tenant) -> None:
    mesh.model.gate = asyncio.Event()
    request = scheduler_pb.SubmitTaskRequest(task="Think for ever.", timeout=10)
    submitted = await mesh.scheduler.SubmitTask(request, metadata=tenant.metadata)
    ended = await tenant.ended(submitted.task_id)
    mesh.model.gate.set()
    assert (ended.status, ended.error.reason) == ("failed", "TIMEOUT")


@pytest.mark.usefixtures("worker")
async def test_an_agent_reads_the_results_of_the_tasks_that_its_own_waited_for(mesh: Mesh, tenant: Tenant) -> None:
    def node(key: str, description: str, *after: str) -> task_graph_pb2.TaskGraphNode:
        dependencies = [
            task_graph_pb2.TaskGraphEdge(key=each, failure_policy=task_pb2.DEPENDENCY_FAILURE_POLICY_CONTINUE) for each in after
        ]
        task = task_pb2.Task(description=description, kind="agent.task", max_attempts=1)
        return task_graph_pb2.TaskGraphNode(key=key, task=task, dependencies=dependencies)

    def answer(request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        prompt = request["messages"][-1]["content"]
        if prompt == "Count the pages.":
            return says("There are ten.")(request)
        if prompt == "Find the author.":
            return fails(400)(request)
        return says("Ten pages by nobody.")(request)

    mesh.model.answer = answer
    nodes = [
        node("pages", "Count the pages."),
        node("author", "Find the author."),
        node("note", "Write a note.", "pages", "author"),
    ]
    graph = await mesh.scheduler.CreateTaskGraph(scheduler_pb.CreateTaskGraphRequest(nodes=nodes), metadata=tenant.metadata)
    ids = {result.key: result.task_id for result in graph.results}
    ended = await tenant.ended(ids["note"])
    assert ended.state == task_pb2.TASK_STATE_COMPLETED, ended.error
    assert json_format.MessageToDict(ended.result)["response"] == "Ten pages by nobody."
    author = await tenant.ended(ids["author"])
    (prompt,) = [prompt for prompt in mesh.model.prompts() if prompt.endswith("Write a note.")]
    assert prompt == (
        'Results of earlier tasks:\n"pages" (completed):\nThere are ten.\n\n'
        f'"author" (failed):\n{author.error.reason}: {author.error.message}\n\nTask:\nWrite a note.'
    )


@pytest.mark.usefixtures("worker")
async def test_an_agent_reads_a_context_and_gives_a_result_by_reference(mesh: Mesh, tenant: Tenant, other_tenant: Tenant) -> None:
    lines: Any = [f"line {number}" for number in range(300_000)]
    payload_id = await upload_json(mesh.scheduler_channel, {"lines": lines}, tenant.metadata)
    mesh.model.answer = says("y" * (2 << 20))
    task = task_pb2.Task(description="Sum up the lines.", kind="agent.task", context_payload=payload_id, max_attempts=1)
    # Nobody has another tenant's payload read by an agent.
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await mesh.scheduler.CreateTask(scheduler_pb.CreateTaskRequest(task=task), metadata=other_tenant.metadata)
    assert error_info(refused.value)[0] == "PAYLOAD_NOT_FOUND"
    created = await mesh.scheduler.CreateTask(scheduler_pb.CreateTaskRequest(task=task), metadata=tenant.metadata)
    ended = await tenant.ended(created.task_id)
    assert ended.state == task_pb2.TASK_STATE_COMPLETED, ended.error
    (prompt,) = mesh.model.prompts()
    assert prompt.startswith('Context:\n{"lines":["line 0","line 1",')
    assert prompt.endswith("Task:\nSum up the lines.")
    result = await download_json(mesh.scheduler_channel, ended.result_payload, tenant.metadata)
    assert result["response"] == "y" * (2 << 20)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await download_json(mesh.scheduler_channel, ended.result_payload, other_tenant.metadata)
    assert error_info(refused.value)[0] == "PAYLOAD_NOT_FOUND"


@pytest.mark.usefixtures("worker")
async def test_steps_of_a_run_hand_on_what_is_larger_than_a_task(mesh: Mesh, tenant: Tenant) -> None:
    await tenant.create_team()
    steps = [
        agent_pb2.ScenarioStep(step_id="long", agent_id="analyst", model=agent_pb2.ModelAction(prompt="Write much.")),
        agent_pb2.ScenarioStep(
            step_id="short", agent_id="analyst", needs=["long"], model=agent_pb2.ModelAction(prompt="Sum up: ${steps.long.text}")
        ),
    ]
    await create(tenant, agent_pb2.Scenario(scenario_id="large", steps=steps))
    mesh.model.answers = [says("z" * (2 << 20)), says("Short.")]
    run = await tenant.run("large")
    ended = await tenant.ended(run.task_id)
    assert ended.state == task_pb2.TASK_STATE_COMPLETED, ended.error
    assert json_format.MessageToDict(ended.result)["result"]["short"]["text"] == "Short."
    found = {task.labels["step_id"]: await tenant.ended(task.task_id) for task in await tenant.subtasks(run.task_id)}
    assert (bool(found["long"].result_payload), bool(found["short"].context_payload)) == (True, True)
    assert mesh.model.prompts()[1].startswith("Sum up: zzz")
