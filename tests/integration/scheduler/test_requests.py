"""Idempotent create, reads, watching, errors and tenants."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, json_format
from google.rpc import error_details_pb2, status_pb2
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb

from services.common.context import Principal
from services.common.db.driver import open_driver
from services.common.grpcx.status import error_info
from services.scheduler.bootstrap import open_service
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique, value
from tests.support.service import metadata, running

UNKNOWN = "01990000-0000-7000-8000-000000000000"


async def refusal(call: Any) -> tuple[str, str, dict[str, str]]:
    """Code, reason and metadata of a refused call."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    details = dict(refused.value.trailing_metadata() or ())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details if isinstance(detail, any_pb2.Any))
    assert info.domain == "scheduler.guildmesh.dev"
    return refused.value.code().name, info.reason, dict(info.metadata)


async def test_fifty_callers_with_one_request_id_get_one_task(scheduler: Scheduler) -> None:
    request_id = str(uuid.uuid4())
    tasks = await asyncio.gather(*(scheduler.create("one", request_id=request_id) for _ in range(50)))
    assert len({task.task_id for task in tasks}) == 1
    page = await scheduler.stub.ListTasks(pb.ListTasksRequest(), metadata=metadata(scheduler.ada))
    assert len(page.tasks) == 1


async def test_callers_of_several_replicas_with_one_request_id_get_one_task(
    scheduler_settings: MakeSettings, scheduler_tls: Any
) -> None:
    async with (
        running(open_service, scheduler_settings(), scheduler_tls) as one,
        running(open_service, scheduler_settings(), scheduler_tls) as two,
    ):
        first = Scheduler(one)
        second = Scheduler(two, first.ada)
        second.kind = first.kind
        ids = [str(uuid.uuid4()) for _ in range(10)]
        calls = [where.create("one", request_id=name) for name in ids for where in (first, second) for _ in range(5)]
        tasks = await asyncio.gather(*calls)
        assert len({task.task_id for task in tasks}) == len(ids)


async def test_a_repeat_gives_the_first_answer_and_another_payload_is_refused(scheduler: Scheduler) -> None:
    first = await scheduler.create("count", request_id="r1", context={"a": 1, "b": [1, 2]}, labels={"x": "1", "y": "2"})
    again = await scheduler.create("count", request_id="r1", context={"b": [1, 2], "a": 1}, labels={"y": "2", "x": "1"})
    assert again == first
    code, reason, details = await refusal(scheduler.create("another", request_id="r1"))
    assert (code, reason, details) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED", {"request_id": "r1"})
    bob = Principal("bob", unique("globex"), frozenset({"user"}))
    other = await scheduler.create("another", by=bob, request_id="r1")
    assert other.task_id != first.task_id


async def test_a_repeat_for_a_subtask_is_answered_after_its_parent_ended(scheduler: Scheduler) -> None:
    root = await scheduler.create()
    child = await scheduler.create(parent_task_id=root.task_id, request_id="child")
    await scheduler.cancel(root.task_id)
    assert await scheduler.create(parent_task_id=root.task_id, request_id="child") == child


async def test_a_refused_create_leaves_its_request_id_free(scheduler: Scheduler) -> None:
    refused = scheduler.create(parent_task_id=UNKNOWN, request_id="free")
    assert (await refusal(refused))[:2] == ("NOT_FOUND", "TASK_NOT_FOUND")
    await scheduler.create(request_id="free")


async def test_every_refusal_has_its_reason(scheduler: Scheduler) -> None:
    task = await scheduler.create()
    assert await refusal(scheduler.get(UNKNOWN)) == ("NOT_FOUND", "TASK_NOT_FOUND", {"task_id": UNKNOWN})
    assert (await refusal(scheduler.get("no id at all")))[1] == "TASK_NOT_FOUND"
    assert (await refusal(scheduler.cancel(UNKNOWN)))[1] == "TASK_NOT_FOUND"
    assert (await refusal(scheduler.watch(UNKNOWN)))[1] == "TASK_NOT_FOUND"
    assert (await refusal(scheduler.create(queue="reserch")))[:2] == ("NOT_FOUND", "QUEUE_NOT_FOUND")
    await scheduler.cancel(task.task_id)
    code, reason, details = await refusal(scheduler.cancel(task.task_id))
    assert (code, reason) == ("FAILED_PRECONDITION", "TASK_NOT_CANCELLABLE")
    assert details == {"task_id": task.task_id, "status": "cancelled"}
    ended = scheduler.create(parent_task_id=task.task_id)
    assert (await refusal(ended))[:2] == ("FAILED_PRECONDITION", "PARENT_TASK_ENDED")
    live = await scheduler.create()
    stale = scheduler.create(parent_task_id=live.task_id, parent_attempt=3)
    assert (await refusal(stale))[:2] == ("FAILED_PRECONDITION", "STALE_ATTEMPT")


async def test_another_tenants_task_looks_unknown(scheduler: Scheduler) -> None:
    bob = Principal("bob", unique("globex"), frozenset({"user"}))
    task = await scheduler.create()
    for call in (
        scheduler.get(task.task_id, by=bob),
        scheduler.cancel(task.task_id, by=bob),
        scheduler.watch(task.task_id, by=bob),
        scheduler.create(by=bob, parent_task_id=task.task_id),
    ):
        assert (await refusal(call))[:2] == ("NOT_FOUND", "TASK_NOT_FOUND")
    page = await scheduler.stub.ListTasks(pb.ListTasksRequest(), metadata=metadata(bob))
    assert list(page.tasks) == []


async def test_row_security_hides_other_tenants_when_the_where_is_gone(
    scheduler: Scheduler, scheduler_settings: MakeSettings
) -> None:
    ended = await scheduler.create()
    await scheduler.cancel(ended.task_id)
    # So long a result that its event does not lie in the task's own row.
    task = await scheduler.create(request_id="r")
    async with scheduler.worker() as worker:
        lease = await worker.lease()
        step = worker_pb.TaskStep(task_id=task.task_id, attempt=1, step_id="one", result=value("x" * 5000))
        await worker.send(steps=[step])
        await worker.answer("acks")
        assert lease.task.task_id == task.task_id
    async with open_driver(scheduler_settings(), "scheduler") as database:
        for tenant, seen in ((scheduler.ada.tenant_id, 1), (unique("globex"), 0), ("", 0)):
            async with database.tenant(tenant) as driver:
                for table, name in (("tasks", task), ("task_requests", task), ("finished_tasks", ended), ("task_steps", task)):
                    rows = await driver.fetch(f"SELECT * FROM {table}")
                    assert {str(row["task_id"]) for row in rows} == ({name.task_id} if seen else set()), table
                numbers = await driver.fetch("SELECT number FROM task_events")
                assert len(numbers) == (1 if seen else 0)
        async with database.tenant(unique("globex")) as driver:
            assert await driver.execute("UPDATE tasks SET state = 2") == "UPDATE 0"
            assert await driver.execute("DELETE FROM tasks") == "DELETE 0"


async def test_a_page_follows_a_page_newest_first(scheduler: Scheduler) -> None:
    made = [(await scheduler.create(str(number), queue="code" if number % 2 else "research")).task_id for number in range(7)]
    seen: list[str] = []
    token = ""
    while True:
        request = pb.ListTasksRequest(page_size=3, page_token=token)
        page = await scheduler.stub.ListTasks(request, metadata=metadata(scheduler.ada))
        seen += [task.task_id for task in page.tasks]
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(made, reverse=True)
    code = pb.ListTasksRequest(queue="code", state=task_pb2.TASK_STATE_PENDING)
    assert len((await scheduler.stub.ListTasks(code, metadata=metadata(scheduler.ada))).tasks) == 3
    none = pb.ListTasksRequest(state=task_pb2.TASK_STATE_FAILED)
    assert not (await scheduler.stub.ListTasks(none, metadata=metadata(scheduler.ada))).tasks
    with pytest.raises(grpc.aio.AioRpcError, match="page_token"):
        await scheduler.stub.ListTasks(pb.ListTasksRequest(page_token="bm8"), metadata=metadata(scheduler.ada))


async def test_a_large_context_comes_back_whole_but_not_in_lists(scheduler: Scheduler) -> None:
    # {"k":"…"} of exactly 1,048,576 bytes.
    context = {"k": "x" * (1_048_576 - 8)}
    task = await scheduler.create(context=context)
    assert json_format.MessageToDict((await scheduler.get(task.task_id)).context) == context
    page = await scheduler.stub.ListTasks(pb.ListTasksRequest(), metadata=metadata(scheduler.ada))
    assert not page.tasks[0].HasField("context")
    async with scheduler.worker() as worker:
        assert json_format.MessageToDict((await worker.lease()).task.context) == context


async def test_queues_and_counts(scheduler: Scheduler) -> None:
    queues = await scheduler.stub.ListQueues(pb.ListQueuesRequest(), metadata=metadata(scheduler.ada))
    # Other tests have shared queues of their own.
    assert [(queue.queue, queue.priority) for queue in queues.queues if not queue.queue.startswith("q-")] == [
        ("research", 10),
        ("code", 5),
        ("default", 5),
        ("analysis", 1),
    ]
    await scheduler.create()
    stub: pb_grpc.SchedulerServiceAsyncStub = pb_grpc.SchedulerServiceStub(scheduler.server.channel(as_="monitor"))
    answer = await stub.CountTasks(pb.CountTasksRequest())
    assert set(answer.counts) == {"scheduled", "waiting", "blocked", "pending", "running", "completed", "failed", "cancelled"}
    assert answer.counts["pending"] >= 1
    assert sum(queue.counts["pending"] for queue in answer.queues) == answer.counts["pending"]


async def test_a_watch_resumes_from_any_number_and_tells_what_happens_meanwhile(scheduler: Scheduler) -> None:
    task = await scheduler.create()
    watching = [asyncio.create_task(scheduler.watch(task.task_id, after)) for after in range(4)]
    async with scheduler.worker() as worker:
        await worker.complete(await worker.lease())
    for after, events in enumerate(await asyncio.gather(*watching)):
        assert [event.number for event in events] == list(range(after + 1, 4))
    assert await scheduler.watch(task.task_id, 3) == []
    assert await scheduler.watch(task.task_id, 99) == []


async def test_a_watcher_on_one_replica_hears_of_a_change_on_another(
    scheduler_settings: MakeSettings, scheduler_tls: Any
) -> None:
    # With a poll of a minute only the notification can be in time.
    settings = scheduler_settings(watch_poll_seconds=60.0, lease_poll_seconds=60.0)
    async with (
        running(open_service, settings, scheduler_tls) as one,
        running(open_service, settings, scheduler_tls) as two,
    ):
        first = Scheduler(one)
        second = Scheduler(two, first.ada)
        second.kind = first.kind
        async with second.worker() as worker:
            waiting = asyncio.create_task(worker.lease())
            task = await first.create()
            watching = asyncio.create_task(first.watch(task.task_id))
            async with asyncio.timeout(10):
                await worker.complete(await waiting)
                assert len(await watching) == 3
            running_task = await second.create()
            await worker.lease()
            await first.cancel(running_task.task_id)
            assert (await worker.answer("cancels")).reason == "CANCELLED"


async def test_server_sent_events_have_ids_and_end(scheduler: Scheduler) -> None:
    task = await scheduler.create()
    request = pb.StreamTaskEventsRequest(task_id=task.task_id)
    stream = scheduler.stub.StreamTaskEvents(request, metadata=metadata(scheduler.ada))
    bodies: list[str] = []
    async with scheduler.worker() as worker, asyncio.timeout(15):
        lease = await worker.lease()
        async for body in stream:
            assert body.content_type == "text/event-stream"
            bodies.append(body.data.decode())
            if body.data == b": keep-alive\n\n" and len(bodies) < 5:
                await worker.complete(lease, {"text": "two\nlines"})
    assert bodies[0] == "retry: 1000\n\n"
    events = [body for body in bodies[1:] if body != ": keep-alive\n\n"]
    assert len(events) < len(bodies) - 1
    assert events[-1] == "event: end\ndata: {}\n\n"
    assert [body.split("\n")[0] for body in events[:-1]] == ["id: 1", "id: 2", "id: 3"]
    last = events[-2].split("\n")
    assert last[1] == "event: guildmesh.task.completed.v1"
    event = json_format.Parse(last[2].removeprefix("data: "), TaskEvent())
    assert event.completed.result.struct_value["text"] == "two\nlines"
    assert last[3:] == ["", ""]
    resumed = pb.StreamTaskEventsRequest(task_id=task.task_id, last_event_id="2")
    rest = [body.data async for body in scheduler.stub.StreamTaskEvents(resumed, metadata=metadata(scheduler.ada))]
    assert [data.split(b"\n")[0] for data in rest] == [b"retry: 1000", b"id: 3", b"event: end"]


async def test_a_ticket_of_one_task_shows_its_events_and_nothing_else(scheduler: Scheduler) -> None:
    task, other = await scheduler.create(), await scheduler.create()
    await scheduler.cancel(task.task_id)

    def with_ticket(task_id: str) -> tuple[tuple[str, str], ...]:
        return metadata(scheduler.ada, task=task_id)

    request = pb.StreamTaskEventsRequest(task_id=task.task_id)
    bodies = [body.data async for body in scheduler.stub.StreamTaskEvents(request, metadata=with_ticket(task.task_id))]
    assert [data.split(b"\n")[0] for data in bodies] == [b"retry: 1000", b"id: 1", b"id: 2", b"event: end"]

    async def refused(call: Any) -> None:
        with pytest.raises(grpc.aio.AioRpcError, match="for another task get another") as error:
            async with asyncio.timeout(10):
                await call
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert error_info(error.value) == ("WATCH_TICKET_REFUSED", {"task_id": task.task_id})

    foreign = pb.StreamTaskEventsRequest(task_id=other.task_id)
    await refused(scheduler.stub.StreamTaskEvents(foreign, metadata=with_ticket(task.task_id)).read())
    await refused(scheduler.stub.StreamEvents(pb.StreamEventsRequest(), metadata=with_ticket(task.task_id)).read())
    await refused(scheduler.stub.GetTask(pb.GetTaskRequest(task_id=task.task_id), metadata=with_ticket(task.task_id)))
    cancel = pb.CancelTaskRequest(task_id=task.task_id)
    await refused(scheduler.stub.CancelTask(cancel, metadata=with_ticket(task.task_id)))
