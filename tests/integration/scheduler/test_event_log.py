"""What other services and subtasks add to the log of a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, get_args

import asyncpg
import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from guildmesh.events.v1 import task_event_pb2 as events_pb
from guildmesh.events.v1.tool_usage_pb2 import TOOL_OUTCOME_SUCCEEDED
from guildmesh.scheduler.v1 import event_log_service_pb2 as pb
from guildmesh.scheduler.v1 import event_log_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb

from services.common.ids import new_id
from services.scheduler.domain.events import Change
from services.scheduler.relay.headers import headers_of
from services.scheduler.storage.outbox_codec import unpack
from tests.integration.scheduler.conftest import Scheduler, value
from tests.support.service import metadata


@dataclass
class Log:
    """The event log as the tool service calls it."""

    scheduler: Scheduler
    stub: pb_grpc.EventLogServiceAsyncStub

    def called(self, task_id: str, run: str, attempt: int = 1, **fields: Any) -> pb.AppendedEvent:
        change = events_pb.TaskToolCalled(execution_id=run, run=1, attempt=attempt, tool_name="python", effect="PURE")
        return self._event(task_id, f"{run}/1/called", attempt, tool_called=change, **fields)

    def returned(self, task_id: str, run: str, attempt: int = 1, **fields: Any) -> pb.AppendedEvent:
        change = events_pb.TaskToolReturned(execution_id=run, run=1, attempt=attempt, outcome=TOOL_OUTCOME_SUCCEEDED)
        more = {"follows": f"{run}/1/called"} | fields
        return self._event(task_id, f"{run}/1/returned", attempt, tool_returned=change, **more)

    async def append(self, *events: pb.AppendedEvent) -> list[tuple[int, str]]:
        answer = await self.stub.AppendEvents(pb.AppendEventsRequest(events=events))
        return [(each.number, each.reason) for each in answer.answers]

    def _event(self, task_id: str, source_id: str, attempt: int, **fields: Any) -> pb.AppendedEvent:
        given = {"tenant_id": self.scheduler.ada.tenant_id, "actor": "ada"} | fields
        return pb.AppendedEvent(task_id=task_id, attempt=attempt, source_id=source_id, **given)


@pytest.fixture
async def log(scheduler: Scheduler) -> Log:
    return Log(scheduler, pb_grpc.EventLogServiceStub(scheduler.server.channel("tool")))


async def rows(scheduler: Scheduler, statement: str, *arguments: Any) -> list[Any]:
    """Rows of all tenants."""
    database = await asyncpg.connect(scheduler.server.running.settings.database_url.get_secret_value())
    try:
        await database.execute("SET ROLE scheduler_engine")
        return list(await database.fetch(statement, *arguments))
    finally:
        await database.close()


def changes(events: Sequence[events_pb.TaskEvent]) -> list[str]:
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    return [event.WhichOneof("change") or "" for event in events]


async def test_events_of_a_tool_are_numbered_among_the_others_and_told_twice_written_once(log: Log, scheduler: Scheduler) -> None:
    task, run = await scheduler.create(), new_id()
    async with scheduler.worker() as worker:
        lease = await worker.lease()
        called, returned = log.called(task.task_id, run), log.returned(task.task_id, run)
        assert await log.append(called) == [(3, "")]
        assert await log.append(called, returned, returned) == [(3, ""), (4, ""), (4, "")]
        await worker.complete(lease)
        # Also what is told once more after the end is acknowledged with its number.
        assert await log.append(called, returned) == [(3, ""), (4, "")]
    events = await scheduler.watch(task.task_id)
    assert changes(events) == ["created", "started", "tool_called", "tool_returned", "completed"]
    assert (events[2].source, events[2].source_id, events[2].actor) == ("tool", f"{run}/1/called", "ada")
    assert (events[2].type, events[2].tool_called.tool_name) == ("guildmesh.task.tool_called.v1", "python")


async def test_the_same_source_id_of_another_source_is_another_event(log: Log, scheduler: Scheduler) -> None:
    task, run = await scheduler.create(), new_id()
    agent = pb_grpc.EventLogServiceStub(scheduler.server.channel("agent"))
    async with scheduler.worker() as worker:
        await worker.lease()
        event = log.called(task.task_id, run)
        assert await log.append(event) == [(3, "")]
        assert [each.number for each in (await agent.AppendEvents(pb.AppendEventsRequest(events=[event]))).answers] == [4]


async def test_what_does_not_fit_is_refused_for_itself_and_for_good(log: Log, scheduler: Scheduler) -> None:
    task, run, other = await scheduler.create(), new_id(), new_id()
    async with scheduler.worker() as worker:
        lease = await worker.lease()
        assert await log.append(
            log.called(new_id(), run),
            log.called("no id", run),
            log.called(task.task_id, run, tenant_id="globex"),
            log.called(task.task_id, run, attempt=2),
            log.called(task.task_id, run, actor=""),
            pb.AppendedEvent(tenant_id="t", task_id=task.task_id, attempt=1, source_id="x", actor="ada"),
            log.returned(task.task_id, run),
            log.called(task.task_id, run),
        ) == [
            (0, "TASK_NOT_FOUND"),
            (0, "INVALID_ARGUMENT"),
            (0, "TASK_NOT_FOUND"),
            (0, "INVALID_ARGUMENT"),
            (0, "INVALID_ARGUMENT"),
            (0, "INVALID_ARGUMENT"),
            (0, "STALE_ATTEMPT"),
            (3, ""),
        ]
        await worker.complete(lease)
        assert await log.append(log.called(task.task_id, other)) == [(0, "TASK_ENDED")]
    assert changes(await scheduler.watch(task.task_id)) == ["created", "started", "tool_called", "completed"]


async def test_what_begins_for_an_old_attempt_is_refused_and_what_has_begun_ends(log: Log, scheduler: Scheduler) -> None:
    task, run, late = await scheduler.create(), new_id(), new_id()
    async with scheduler.worker() as worker:
        lease = await worker.lease()
        assert await log.append(log.called(task.task_id, run)) == [(3, "")]
        await worker.fail(lease, retryable=True)
        # Between two attempts the last one is the newest.
        assert await log.append(log.called(task.task_id, late)) == [(5, "")]
        again = await worker.lease()
        assert again.task.attempt == 2
        stale = new_id()
        assert await log.append(
            log.called(task.task_id, stale), log.returned(task.task_id, stale), log.returned(task.task_id, run)
        ) == [(0, "STALE_ATTEMPT"), (0, "STALE_ATTEMPT"), (8, "")]
        await worker.complete(again)
    events = await scheduler.watch(task.task_id)
    assert (events[7].attempt, events[7].tool_returned.attempt) == (2, 1)
    assert changes(events)[-2:] == ["tool_returned", "completed"]


async def test_repeats_are_found_in_a_log_that_is_longer_than_a_row(log: Log, scheduler: Scheduler) -> None:
    task, runs = await scheduler.create(), [new_id() for _ in range(40)]
    events = [event for run in runs for event in (log.called(task.task_id, run), log.returned(task.task_id, run))]
    async with scheduler.worker() as worker:
        lease = await worker.lease()
        first = await log.append(*events)
        assert first == [(number, "") for number in range(3, 83)]
        await worker.complete(lease)
    assert await log.append(*events) == first


async def test_nobody_but_a_listed_service_appends(scheduler: Scheduler, log: Log) -> None:
    request = pb.AppendEventsRequest(events=[log.called(new_id(), new_id())])
    for caller in ("gateway", "monitor"):
        stub = pb_grpc.EventLogServiceStub(scheduler.server.channel(caller))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.AppendEvents(request, metadata=metadata(scheduler.ada))
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.aio.AioRpcError, match="events") as empty:
        await log.stub.AppendEvents(pb.AppendEventsRequest())
    assert empty.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_parent_is_told_of_its_subtasks_in_order_and_of_the_last_before_its_own_end(scheduler: Scheduler) -> None:
    parent = await scheduler.create()
    async with scheduler.worker(credits=1) as worker:
        lease = await worker.lease()
        children = [await scheduler.create(parent_task_id=parent.task_id) for _ in range(3)]
        await worker.send(credits=3)
        leases = [await worker.lease() for _ in children]
        await worker.complete(leases[0])
        await worker.fail(leases[1], retryable=False)
        await scheduler.cancel(children[2].task_id)
        await worker.complete(lease)
    events = await scheduler.watch(parent.task_id)
    assert changes(events)[:2] == ["created", "started"]
    assert changes(events)[-1] == "completed"
    begun = [event.child_created.child_task_id for event in events if event.HasField("child_created")]
    ended = [event.child_ended for event in events if event.HasField("child_ended")]
    assert begun == [child.task_id for child in children]
    assert [(each.child_task_id, each.state, each.reason) for each in ended] == [
        (children[0].task_id, "COMPLETED", ""),
        (children[1].task_id, "FAILED", "BROKEN"),
        (children[2].task_id, "CANCELLED", ""),
    ]
    assert {event.actor for event in events if event.HasField("child_created")} == {"ada"}


async def test_subtasks_that_end_with_their_parent_are_not_told_of(scheduler: Scheduler) -> None:
    parent = await scheduler.create()
    for _ in range(2):
        await scheduler.create(parent_task_id=parent.task_id)
    await scheduler.cancel(parent.task_id)
    assert changes(await scheduler.watch(parent.task_id)) == ["created", "child_created", "child_created", "cancelled"]
    assert await rows(scheduler, "SELECT FROM scheduler.child_changes WHERE tenant_id = $1", scheduler.ada.tenant_id) == []


async def test_a_parent_that_goes_on_is_told_soon(scheduler: Scheduler) -> None:
    parent = await scheduler.create(kind="nobody-takes-it")
    await scheduler.create(parent_task_id=parent.task_id)
    async with scheduler.worker() as worker:
        await worker.complete(await worker.lease())
        assert (await scheduler.until_event(parent.task_id, "child_ended")).child_ended.kind == scheduler.kind


async def test_what_a_tool_tells_is_forgotten_with_its_task(log: Log, scheduler: Scheduler) -> None:
    task = await scheduler.create()
    kept = "SELECT FROM scheduler.appended_events WHERE tenant_id = $1"
    async with scheduler.worker() as worker:
        lease = await worker.lease()
        await log.append(log.called(task.task_id, new_id()))
        assert len(await rows(scheduler, kept, scheduler.ada.tenant_id)) == 1
        await worker.complete(lease)
    assert await rows(scheduler, kept, scheduler.ada.tenant_id) == []


KINDS = sorted(change.type for change in get_args(Change))


@pytest.fixture
async def lives(log: Log, scheduler: Scheduler) -> dict[str, list[tuple[events_pb.TaskEvent, dict[str, bytes]]]]:
    """Events of tasks to which everything has happened, by type, each with the headers that the relay gives it."""
    [[before]] = await rows(scheduler, "SELECT coalesce(max(position), 0) FROM scheduler.outbox")
    parent = await scheduler.create(max_attempts=5)
    async with scheduler.worker(credits=1) as worker:
        lease = await worker.lease()
        task_id, run = parent.task_id, new_id()
        child = await scheduler.create(parent_task_id=task_id, kind="nobody-takes-it")
        await scheduler.cancel(child.task_id)
        await log.append(log.called(task_id, run), log.returned(task_id, run))
        step = worker_pb.TaskStep(task_id=task_id, attempt=1, step_id="s", result=value(1))
        await worker.send(steps=[step], outputs=[worker_pb.TaskOutputChunk(task_id=task_id, attempt=1, sequence=1, text="t")])
        await worker.answer("outputs")
        await worker.send(heartbeats=[worker_pb.TaskHeartbeat(task_id=task_id, attempt=1, progress=0.5)])
        await worker.answer("renewals")
        await scheduler.until_event(task_id, "progressed")
        await worker.fail(lease, retryable=True)
        await worker.send(credits=1)
        lease = await worker.lease()
        timeout = Duration()
        timeout.FromTimedelta(timedelta(minutes=1))
        await worker.send(waits=[worker_pb.TaskWait(task_id=task_id, attempt=2, signal="go", prompt="?", timeout=timeout)])
        await worker.answer("acks")
        signal = scheduler_service_pb2.SignalTaskRequest(task_id=task_id, signal="go", value=value(True))
        await scheduler.stub.SignalTask(signal, metadata=metadata(scheduler.ada))
        await worker.send(credits=1)
        await worker.complete(await worker.lease())
        failed = await scheduler.create()
        await worker.send(credits=1)
        await worker.fail(await worker.lease(), retryable=False)
    await scheduler.watch(failed.task_id)
    waiting = "SELECT payload FROM scheduler.outbox WHERE position > $1 ORDER BY position"
    payloads = [row[0] for row in await rows(scheduler, waiting, before)]
    found: dict[str, list[tuple[events_pb.TaskEvent, dict[str, bytes]]]] = {}
    for record in (record for payload in payloads for record in unpack(payload)):
        event = events_pb.TaskEvent.FromString(record.value)
        if event.tenant_id == scheduler.ada.tenant_id:
            found.setdefault(event.type, []).append((event, dict(headers_of(event, record.traceparent.decode()))))
    return found


async def test_every_kind_of_event_has_its_actor_tenant_and_trace(
    lives: dict[str, list[tuple[events_pb.TaskEvent, dict[str, bytes]]]], scheduler: Scheduler
) -> None:
    assert sorted(lives) == KINDS
    for kind, events in lives.items():
        for event, headers in events:
            assert (event.type, event.tenant_id) == (kind, scheduler.ada.tenant_id)
            assert event.actor, kind
            assert headers["ce_tenantid"].decode() == event.tenant_id
            assert headers["traceparent"].count(b"-") == 3, kind
            assert headers["traceparent"] == headers["ce_traceparent"]
    signalled = lives["guildmesh.task.signalled.v1"][0][0]
    assert (signalled.actor, signalled.signalled.prompt) == ("ada", "?")
