from __future__ import annotations

import asyncio

import grpc
import pytest
from guildmesh.scheduler.v1 import worker_service_pb2 as pb
from guildmesh_client.worker import TaskFailed, Worker
from guildmesh_client.worker.json_values import from_value, to_value
from guildmesh_client.worker.reports import Reports, key_of, put
from guildmesh_client.worker.stream import Stream


def test_there_is_exactly_one_way_to_connect() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Worker()
    with pytest.raises(ValueError, match="concurrency"):
        Worker("localhost:1", concurrency=0)


def test_the_environment_says_how_many_tasks_run_at_once_unless_the_caller_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_CONCURRENT_TASKS", "1e2")
    with pytest.raises(ValueError, match=r"MAX_CONCURRENT_TASKS is '1e2': set it to a whole number"):
        Worker("localhost:1")
    Worker("localhost:1", concurrency=3)
    monkeypatch.setenv("MAX_CONCURRENT_TASKS", "0")
    with pytest.raises(ValueError, match="from 1 on"):
        Worker("localhost:1")


async def test_a_worker_without_functions_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"@worker\.task"):
        await Worker("localhost:1").run()


def test_a_kind_has_one_function() -> None:
    worker = Worker("localhost:1")

    @worker.task("k")
    async def one(task: object) -> None: ...

    with pytest.raises(ValueError, match="already"):
        worker.task("k")(one)


def test_a_reason_is_machine_readable() -> None:
    with pytest.raises(ValueError, match="reason"):
        TaskFailed("not good")


@pytest.mark.parametrize("value", [None, True, 3, -7, 2.5, "text", [1, "a", None], {"a": {"b": [1.5]}}])
def test_json_values_come_back_as_they_were(value: object) -> None:
    back = from_value(to_value(value))  # type: ignore[arg-type]
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}, "\ud800", "x" * 1_048_577, pb.TaskStep()])
def test_what_is_not_json_or_too_large_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"result|JSON value"):
        to_value(value)  # type: ignore[arg-type]


async def test_reports_stay_until_they_are_answered() -> None:
    reports = Reports()
    step = pb.TaskStep(task_id="t", attempt=1, step_id="s")
    end = pb.TaskCompletion(task_id="t", attempt=1)
    first, second = reports.add_awaited(step), reports.add_awaited(end)
    assert reports.all() == [step, end]
    reports.answer(key_of(step), None)
    assert await first is None
    assert reports.all() == [end]
    refusal = pb.TaskRefusal(reason="STALE_ATTEMPT")
    reports.answer(key_of(end), refusal)
    reports.answer(key_of(end), None)
    assert await second == refusal
    await reports.answered()


async def test_a_stream_gathers_what_there_is_to_tell() -> None:
    stream = Stream(pb.WorkerHello(worker_id="w", kinds=["k"]))
    stream.give_credits(3)
    stream.give_credits(2)
    stream.beat([pb.TaskHeartbeat(task_id="t", attempt=1)])
    stream.report([pb.TaskCompletion(task_id="t", attempt=1)] * 700)
    stream.end()
    requests = [request async for request in stream.requests()]
    assert requests[0].hello.worker_id == "w"
    assert [request.credits for request in requests] == [5, 0]
    assert [len(request.completions) for request in requests] == [500, 200]
    assert len(requests[0].heartbeats) == 1


async def test_renewals_answer_heartbeats_in_order() -> None:
    stream = Stream(pb.WorkerHello())
    sent = []
    messages = stream.requests()
    await anext(messages)
    for _ in range(2):
        stream.beat([pb.TaskHeartbeat(task_id="t", attempt=1)])
        await anext(messages)
        sent.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.01)
    first, second = stream.renewed("t", 1), stream.renewed("t", 1)
    assert first is not None
    assert second is not None
    assert first <= sent[0] < second <= sent[1]
    assert stream.renewed("t", 1) is None


async def test_a_stream_is_silent_only_while_an_answer_is_owed() -> None:
    stream = Stream(pb.WorkerHello())
    assert stream.silence() == 0.0
    stream.give_credits(1)
    assert stream.silence() == 0.0
    stream.report([pb.TaskCompletion(task_id="t", attempt=1)])
    await asyncio.sleep(0.02)
    first = stream.silence()
    assert first >= 0.02
    stream.beat([pb.TaskHeartbeat(task_id="t", attempt=1)])
    assert stream.silence() >= first
    stream.heard(waiting=True)
    assert 0.0 < stream.silence() < 0.02
    stream.heard(waiting=False)
    assert stream.silence() == 0.0


async def test_the_oldest_heartbeat_without_an_answer_counts() -> None:
    stream = Stream(pb.WorkerHello())
    assert stream.unanswered() == 0.0
    stream.beat([pb.TaskHeartbeat(task_id="one", attempt=1), pb.TaskHeartbeat(task_id="two", attempt=1)])
    await asyncio.sleep(0.02)
    stream.renewed("one", 1)
    assert stream.unanswered() >= 0.02
    stream.forget("two", 1)
    assert stream.unanswered() == 0.0


async def test_a_heartbeat_that_could_not_be_sent_gives_way_to_the_next_and_counts_from_the_first() -> None:
    stream = Stream(pb.WorkerHello())
    began = asyncio.get_running_loop().time()
    stream.beat([pb.TaskHeartbeat(task_id="t", attempt=1)])
    moment = asyncio.get_running_loop().time()
    stream.beat([pb.TaskHeartbeat(task_id="t", attempt=1, progress=0.5)])
    request = await anext(stream.requests())
    assert [beat.progress for beat in request.heartbeats] == [0.5]
    sent = stream.renewed("t", 1)
    assert sent is not None
    assert began <= sent <= moment
    assert stream.renewed("t", 1) is None


async def test_a_stream_waits_for_its_welcome_so_long_and_for_ever_after_it() -> None:
    stream = Stream(pb.WorkerHello())
    with pytest.raises(TimeoutError):
        async with stream.limited(0.01):
            await asyncio.Event().wait()
    async with stream.limited(0.01):
        stream.welcome()
        await asyncio.sleep(0.03)
    with pytest.raises(TimeoutError):
        async with stream.limited(0.01):
            stream.welcome()
            stream.give_up()
            await asyncio.Event().wait()
    # One that has ended is given up once more: nothing happens.
    stream.give_up()


def test_a_message_takes_each_report_where_it_belongs() -> None:
    request = pb.WorkRequest()
    put(request, [pb.TaskStep(), pb.TaskCompletion(), pb.TaskFailure(), pb.TaskStep()])
    assert (len(request.steps), len(request.completions), len(request.failures)) == (2, 1, 1)


async def test_a_worker_keeps_trying_while_nobody_answers_and_stops_when_asked() -> None:
    worker = Worker("localhost:1", credentials=grpc.local_channel_credentials())
    worker.task("k")(lambda task: asyncio.sleep(0))
    running = asyncio.create_task(worker.run())
    done, _ = await asyncio.wait([running], timeout=0.3)
    assert not done
    worker.stop()
    async with asyncio.timeout(10):
        await running
