"""ToolService over the wire, with a real database and a real sandbox."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from guildmesh.tool.v1 import tool_service_pb2 as pb

from services.common.context import Principal
from services.tool.bootstrap import open_service
from tests.integration.tool.conftest import Make, Tool, someone, struct
from tests.support.service import metadata, running

WORDS = "import collections\nresult = dict(collections.Counter(arguments['text'].split()))\nprint('counted')"
WORDS_SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def reason(error: grpc.aio.AioRpcError) -> tuple[str, str, dict[str, str]]:
    status = rpc_status.from_call(error)
    assert status is not None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return error.code().name, info.reason, dict(info.metadata)
    raise AssertionError("no ErrorInfo")


def plain(message: Message) -> Any:
    return json_format.MessageToDict(message)


async def test_python_is_built_in_for_every_tenant(tool: Tool) -> None:
    found = await tool.stub.GetTool(pb.GetToolRequest(tool_name="python"), metadata=tool.metadata)
    assert found.built_in
    assert found.effect == pb.TOOL_EFFECT_PURE
    listed = await tool.stub.ListTools(pb.ListToolsRequest(), metadata=tool.metadata)
    assert [one.tool_name for one in listed.tools] == ["python"]


async def test_python_runs_and_answers_with_result_and_output(tool: Tool) -> None:
    answer = await tool.execute("python", {"code": "print('hi')\nresult = {'sum': sum(arguments)}", "input": [1, 2, 3.5]})
    assert (answer.success, answer.exit_code, answer.output, answer.error) == (True, 0, "hi\n", "")
    assert plain(answer.result) == {"sum": 6.5}
    assert answer.duration.ToTimedelta().total_seconds() > 0
    assert not answer.replayed


async def test_whole_numbers_arrive_as_integers(tool: Tool) -> None:
    answer = await tool.execute("python", {"code": "result = [type(x).__name__ for x in arguments]", "input": [1, 1.5, 1e300]})
    assert plain(answer.result) == ["int", "float", "float"]


async def test_a_tool_that_fails_is_an_answer_and_not_an_error(tool: Tool) -> None:
    answer = await tool.python("1/0")
    assert (answer.success, answer.exit_code) == (False, 1)
    assert "ZeroDivisionError" in answer.error
    assert answer.result.WhichOneof("kind") == "null_value"


async def test_the_timeout_of_the_request_kills(tool: Tool) -> None:
    answer = await tool.python("while True: pass", timeout=Duration(seconds=1))
    assert (answer.success, answer.exit_code) == (False, 124)
    assert answer.error.startswith("TIMEOUT")


async def test_a_tenants_tool_runs_its_source_on_its_arguments(tool: Tool) -> None:
    created = await tool.create("word_count", WORDS, input_schema=struct(WORDS_SCHEMA), effect=pb.TOOL_EFFECT_PURE)
    assert created.HasField("create_time")
    found = await tool.stub.GetTool(pb.GetToolRequest(tool_name="word_count"), metadata=tool.metadata)
    assert found == created
    answer = await tool.execute("word_count", {"text": "a b a"})
    assert plain(answer.result) == {"a": 2, "b": 1}
    assert answer.output == "counted\n"


async def test_an_unspecified_effect_is_kept_as_once(tool: Tool) -> None:
    assert (await tool.create("careful", "result = 1")).effect == pb.TOOL_EFFECT_ONCE


async def test_a_tool_is_unknown_to_another_tenant(tool: Tool) -> None:
    await tool.create("mine", "result = 1")
    other = replace(tool, caller=someone())
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await other.execute("mine")
    assert reason(unknown.value) == ("NOT_FOUND", "TOOL_NOT_FOUND", {"tool_name": "mine"})
    await other.create("mine", "result = 2")
    assert (await tool.execute("mine")).result.number_value == 1
    assert (await other.execute("mine")).result.number_value == 2
    assert [usage.tool_name for usage in await other.usages()] == ["mine"]


@pytest.mark.parametrize("name", ["python", "twice"])
async def test_a_name_is_taken_once(tool: Tool, name: str) -> None:
    await tool.create("twice", "result = 1")
    with pytest.raises(grpc.aio.AioRpcError) as taken:
        await tool.create(name, "result = 1")
    assert reason(taken.value) == ("ALREADY_EXISTS", "TOOL_ALREADY_EXISTS", {"tool_name": name})


async def test_a_wrong_schema_is_refused_and_says_where(tool: Tool) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as wrong:
        await tool.create("bad", "result = 1", input_schema=struct({"type": "object", "properties": {"a": {"type": "strin"}}}))
    assert reason(wrong.value)[:2] == ("INVALID_ARGUMENT", "TOOL_SCHEMA_INVALID")
    assert wrong.value.details() == "tool.input_schema: properties.a.type: 'strin' is not one of the JSON types."


@pytest.mark.parametrize(
    ("name", "source"), [("Upper", "result = 1"), ("", "result = 1"), ("1st", "result = 1"), ("empty", " \n")]
)
async def test_a_wrong_name_or_no_source_is_refused(tool: Tool, name: str, source: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as wrong:
        await tool.create(name, source)
    assert reason(wrong.value)[:2] == ("INVALID_ARGUMENT", "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "arguments: 'code' is a required property."),
        ({"code": 1}, "arguments.code: 1 is not of type 'string'."),
        ({"code": ""}, "arguments.code: '' should be non-empty."),
        ({"code": "1", "cod": "2"}, "arguments: Additional properties are not allowed ('cod' was unexpected)."),
    ],
)
async def test_wrong_arguments_are_refused_and_say_where(tool: Tool, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as wrong:
        await tool.execute("python", arguments)
    assert reason(wrong.value) == ("INVALID_ARGUMENT", "TOOL_ARGUMENTS_INVALID", {"tool_name": "python"})
    assert wrong.value.details() == message
    assert await tool.usages() == []


async def test_tools_are_listed_by_name_in_pages(tool: Tool) -> None:
    for name in ("zip", "add", "q", "pyth", "r"):
        await tool.create(name, "result = 1")
    names: list[str] = []
    token = ""
    while True:
        request = pb.ListToolsRequest(page_size=2, page_token=token)
        page = await tool.stub.ListTools(request, metadata=tool.metadata)
        assert len(page.tools) <= 2
        names += [one.tool_name for one in page.tools]
        token = page.next_page_token
        if not token:
            break
    assert names == ["add", "pyth", "python", "q", "r", "zip"]


async def test_a_step_of_a_task_runs_once_and_is_replayed(tool: Tool) -> None:
    code = "import random\nresult = random.random()\nprint('\\0 once')"
    first = await tool.python(code, task_id="t1", attempt=1, step_id="s1")
    again = await tool.python(code, task_id="t1", attempt=2, step_id="s1")
    other = await tool.python(code, task_id="t1", attempt=2, step_id="s2")
    assert (first.replayed, again.replayed, other.replayed) == (False, True, False)
    again.replayed = False
    assert again == first
    assert other.result != first.result


async def test_a_failure_is_replayed_as_well(tool: Tool) -> None:
    first = await tool.python("import sys; print('x'); sys.exit(7)", task_id="t", attempt=1, step_id="s")
    again = await tool.python("result = 1", task_id="t", attempt=1, step_id="s")
    assert (again.replayed, again.exit_code, again.output) == (True, 7, "x\n")
    assert again.execution_id == first.execution_id


async def test_a_lower_attempt_is_refused(tool: Tool) -> None:
    await tool.python("result = 1", task_id="t", attempt=2, step_id="s")
    with pytest.raises(grpc.aio.AioRpcError) as stale:
        await tool.python("result = 1", task_id="t", attempt=1, step_id="s")
    assert reason(stale.value) == ("FAILED_PRECONDITION", "STALE_ATTEMPT", {"task_id": "t", "attempt": "1"})
    # A replay raises the mark, too.
    await tool.python("result = 1", task_id="t", attempt=3, step_id="s")
    with pytest.raises(grpc.aio.AioRpcError):
        await tool.python("result = 1", task_id="t", attempt=2, step_id="s")


async def test_concurrent_requests_for_one_step_run_it_once(tool: Tool) -> None:
    code = "import time, random\ntime.sleep(0.5)\nresult = random.random()"
    answers = await asyncio.gather(*(tool.python(code, task_id="t", attempt=1, step_id="s") for _ in range(6)))
    assert len({answer.result.number_value for answer in answers}) == 1
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 5
    assert len(await tool.usages()) == 1


async def test_a_step_of_another_tenant_with_the_same_ids_is_another_step(tool: Tool) -> None:
    other = replace(tool, caller=someone())
    first = await tool.python("result = 1", task_id="t", attempt=5, step_id="s")
    second = await other.python("result = 2", task_id="t", attempt=1, step_id="s")
    assert (first.result.number_value, second.result.number_value) == (1, 2)


async def test_without_a_step_every_request_runs(tool: Tool) -> None:
    for fields in ({"task_id": "t"}, {"step_id": "s"}, {}):
        assert not (await tool.python("result = 1", **fields)).replayed
        assert not (await tool.python("result = 1", **fields)).replayed
    assert len(await tool.usages()) == 6


async def test_a_caller_that_goes_away_finds_the_answer_later(tool: Tool) -> None:
    code = "import time\ntime.sleep(1)\nresult = 'done'"
    request = asyncio.create_task(tool.python(code, task_id="t", attempt=1, step_id="s"))
    async with asyncio.timeout(10):
        while not await tool.usages():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    again = await tool.python(code, task_id="t", attempt=1, step_id="s")
    assert (again.replayed, again.result.string_value) == (True, "done")
    assert len(await tool.usages()) == 1


async def test_usages_tell_who_ran_what_and_what_came_of_it(tool: Tool) -> None:
    await tool.python("result = [1]", task_id="t", attempt=1, step_id="s")
    await tool.python("1/0")
    failed, done = await tool.usages()
    assert (done.tool_name, done.username, done.task_id, done.step_id) == ("python", "ada", "t", "s")
    assert (done.state, done.success, done.error) == (pb.TOOL_USAGE_STATE_ENDED, True, "")
    assert plain(done.arguments) == {"code": "result = [1]"}
    assert plain(done.result) == [1]
    assert done.duration.ToTimedelta().total_seconds() > 0
    assert (failed.success, failed.task_id) == (False, "")
    assert "ZeroDivisionError" in failed.error
    assert [usage.execution_id for usage in await tool.usages(task_id="t")] == [done.execution_id]


async def test_usages_come_in_pages_that_a_message_can_carry(tool: Tool) -> None:
    large = {"code": "result = arguments", "input": "x" * 49_000}
    many = {"code": "result = len(arguments)", "input": [1] * 400_000}
    ids = [(await tool.execute("python", one)).execution_id for one in (large, many, large)]
    found: list[str] = []
    token, pages = "", 0
    while True:
        request = pb.ListToolUsagesRequest(page_token=token)
        page = await tool.stub.ListToolUsages(request, metadata=tool.metadata)
        found += [usage.execution_id for usage in page.tool_usages]
        token, pages = page.next_page_token, pages + 1
        if not token:
            break
    assert found == ids[::-1]
    assert pages > 1


async def test_where_no_sandbox_works_the_tool_is_refused_and_nothing_is_recorded(make_settings: Make, tool: Tool) -> None:
    settings = make_settings(sandbox="docker", docker_host="tcp://127.0.0.1:1")
    async with running(open_service, settings, tool.server.tls) as server:
        from guildmesh.tool.v1 import tool_service_pb2_grpc as pb_grpc

        alone = Tool(server, pb_grpc.ToolServiceStub(server.channel()), someone())
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await alone.python("print(1)", task_id="t", attempt=1, step_id="s")
            assert reason(refused.value) == ("FAILED_PRECONDITION", "SANDBOX_UNAVAILABLE", {})
        assert await alone.usages() == []


async def test_only_listed_callers_may_run_tools(tool: Tool) -> None:
    from guildmesh.tool.v1 import tool_service_pb2_grpc as pb_grpc

    request = pb.ExecuteToolRequest(tool_name="python", arguments=struct({"code": "result = 1"}))
    memory = pb_grpc.ToolServiceStub(tool.server.channel("memory"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await memory.ExecuteTool(request, metadata=metadata(tool.caller, via="memory"))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    agent = pb_grpc.ToolServiceStub(tool.server.channel("agent"))
    behalf: Principal = tool.caller
    answer = await agent.ExecuteTool(request, metadata=metadata(behalf, via="agent"))
    assert answer.success


@pytest.mark.docker
async def test_the_whole_path_works_with_docker(make_settings: Make, tool: Tool) -> None:
    from guildmesh.tool.v1 import tool_service_pb2_grpc as pb_grpc

    from tests.support.requirements import need_docker

    need_docker()
    async with running(open_service, make_settings(sandbox="docker"), tool.server.tls) as server:
        docker = Tool(server, pb_grpc.ToolServiceStub(server.channel()), tool.caller)
        answer = await docker.python("print(6 * 7)\nresult = 42")
        assert (answer.success, answer.output, answer.result.number_value) == (True, "42\n", 42)
