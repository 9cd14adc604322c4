"""Schedules as a resource: what they are created with, changed to, and told to do."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from guildmesh.scheduler.v1 import schedule_pb2, task_pb2
from guildmesh.scheduler.v1 import schedule_service_pb2 as pb

from services.common.context import Principal
from services.common.grpcx.status import error_info
from services.scheduler.bootstrap import open_service
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
from tests.integration.scheduler.schedules.conftest import LABEL, RUN_LAST, SKIP, Client, Store, refused
from tests.support.service import running


async def test_a_schedule_has_its_defaults_and_tells_its_next_runs(client: Client) -> None:
    # What is only told of a task is no part of the template.
    task = task_pb2.Task(description="do it", task_id="x", status="failed", attempt=3)
    schedule = await client.create("nightly", cron="30 2 * * *", time_zone="Europe/Berlin", task=task)
    assert schedule.schedule_id == "nightly"
    assert (schedule.tenant_id, schedule.created_by) == (client.ada.tenant_id, "ada")
    assert (schedule.overlap_policy, schedule.missed_run_policy) == (SKIP, RUN_LAST)
    assert (schedule.task.description, schedule.task.status, schedule.task.task_id) == ("do it", "", "")
    assert schedule.catch_up_window.ToTimedelta() == timedelta(days=1)
    assert not schedule.HasField("jitter")
    assert (schedule.run_count, schedule.skipped_count, schedule.last_error, schedule.paused) == (0, 0, "", False)
    runs = [run.ToDatetime() for run in schedule.next_run_times]
    assert runs[0] == schedule.next_run_time.ToDatetime()
    assert runs == sorted(set(runs))
    assert len(runs) == 5
    assert await client.get("nightly") == schedule
    assert await refused(client.create("nightly")) == (grpc.StatusCode.ALREADY_EXISTS, "SCHEDULE_EXISTS")
    given = await client.create()
    assert len(given.schedule_id) == 36
    assert given.time_zone == "UTC"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"cron": "60 * * * *"}, "INVALID_CRON"),
    ({"cron": ""}, "INVALID_CRON"),
    ({"time_zone": "Europe/Berln"}, "INVALID_TIME_ZONE"),
    ({"task": task_pb2.Task(description="x", queue="nowhere")}, "QUEUE_NOT_FOUND"),
    ({"task": task_pb2.Task(description="<p></p>")}, "INVALID_ARGUMENT"),
    ({"task": task_pb2.Task(description="x", priority=11)}, "INVALID_ARGUMENT"),
    ({"task": task_pb2.Task(description="x", parent_task_id="01990000-0000-7000-8000-000000000000")}, "INVALID_ARGUMENT"),
    ({"task": task_pb2.Task(description="x", labels={str(n): "" for n in range(31)})}, "INVALID_ARGUMENT"),
    ({"task": task_pb2.Task(description="x", schedule_time=Timestamp(seconds=1 << 32))}, "INVALID_ARGUMENT"),
    ({"task": task_pb2.Task(description="x", deadline=Timestamp(seconds=1 << 32))}, "INVALID_ARGUMENT"),
    ({"start_time": Timestamp(seconds=2), "end_time": Timestamp(seconds=1)}, "INVALID_ARGUMENT"),
    ({"end_time": Timestamp(seconds=1 << 60)}, "INVALID_ARGUMENT"),
    ({"schedule_id": "Nightly"}, "INVALID_ARGUMENT"),
]


async def test_what_cannot_be_a_schedule_is_refused(client: Client) -> None:
    for fields, reason in REFUSED:
        assert (await refused(client.create(**fields)))[1] == reason, fields


async def test_a_schedule_without_a_task_and_unknown_ones_are_refused(client: Client) -> None:
    bare = pb.CreateScheduleRequest(schedule=schedule_pb2.Schedule(cron="@daily"))
    assert await refused(client.call("CreateSchedule", bare)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    for method in ("Get", "Delete", "Pause", "Resume", "Trigger"):
        request = getattr(pb, f"{method}ScheduleRequest")(schedule_id="nobody")
        assert await refused(client.call(f"{method}Schedule", request)) == (grpc.StatusCode.NOT_FOUND, "SCHEDULE_NOT_FOUND")
    assert await refused(client.update("nobody", "note", note="x")) == (grpc.StatusCode.NOT_FOUND, "SCHEDULE_NOT_FOUND")


async def test_pages_have_each_schedule_once(client: Client) -> None:
    for number in range(5):
        await client.create(f"s{number}", task=task_pb2.Task(description="x", context={"n": number}))
    seen: list[str] = []
    token = ""
    while True:
        page = await client.call("ListSchedules", pb.ListSchedulesRequest(page_size=2, page_token=token))
        assert not any(schedule.task.HasField("context") or schedule.next_run_times for schedule in page.schedules)
        seen += [schedule.schedule_id for schedule in page.schedules]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["s0", "s1", "s2", "s3", "s4"]
    wrong = pb.ListSchedulesRequest(page_token="bm90aGluZw")
    assert await refused(client.call("ListSchedules", wrong)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


async def test_a_paused_schedule_starts_nothing_and_makes_up_for_nothing(client: Client, store: Store) -> None:
    await client.create("s", cron="* * * * *", note="the first")
    store.past("s", 5)
    paused = await client.call("PauseSchedule", pb.PauseScheduleRequest(schedule_id="s", note="the disk is full"))
    assert (paused.paused, paused.note, paused.HasField("next_run_time")) == (True, "the disk is full", False)
    assert list(paused.next_run_times) == []
    await store.fire()
    resumed = await client.call("ResumeSchedule", pb.ResumeScheduleRequest(schedule_id="s"))
    assert (resumed.paused, resumed.note) == (False, "the disk is full")
    assert resumed.next_run_time.ToDatetime(UTC) > resumed.update_time.ToDatetime(UTC)
    await store.fire()
    assert len(await client.tasks()) <= 1, "at most the run of a minute that begins meanwhile"
    assert len({schedule.etag for schedule in (paused, resumed)}) == 2


async def test_an_update_changes_what_its_mask_names_and_needs_the_newest_etag(client: Client, store: Store) -> None:
    created = await client.create("s", cron="0 3 * * *", note="old")
    changed = await client.update("s", "cron", cron="0 4 * * *", note="not this", etag=created.etag)
    assert (changed.cron, changed.note) == ("0 4 * * *", "old")
    assert changed.next_run_time.ToDatetime().hour == 4
    assert changed.etag != created.etag
    stale = client.update("s", "note", note="new", etag=created.etag)
    assert await refused(stale) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    delete = pb.DeleteScheduleRequest(schedule_id="s", etag=created.etag)
    assert await refused(client.call("DeleteSchedule", delete)) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    # Without a mask: what is set. A run is no change.
    store.past("s", 0)
    await store.fire()
    changed = await client.update("s", note="new", jitter=timedelta(seconds=30), etag=changed.etag)
    assert (changed.note, changed.cron, changed.jitter.ToTimedelta()) == ("new", "0 4 * * *", timedelta(seconds=30))
    # All: what is not set goes back to its default.
    task = task_pb2.Task(description="another", queue="code")
    changed = await client.update("s", "*", cron="@daily", task=task)
    assert (changed.note, changed.HasField("jitter"), changed.task.queue, changed.run_count) == ("", False, "code", 1)
    for mask in ("run_count", "schedule_id", "task.description", "colour"):
        assert (await refused(client.update("s", mask)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert (await refused(client.update("s")))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert (await refused(client.update("s", "cron", cron="x")))[1] == "INVALID_CRON"
    assert (await refused(client.update("s", "time_zone", time_zone="x")))[1] == "INVALID_TIME_ZONE"
    lost = task_pb2.Task(description="x", queue="nowhere")
    assert (await refused(client.update("s", "task", task=lost)))[1] == "QUEUE_NOT_FOUND"
    assert (await client.get("s")).etag == changed.etag


async def test_an_update_of_the_task_loses_no_run_that_is_due(client: Client, store: Store) -> None:
    await client.create("s")
    store.past("s", 0)
    await client.update("s", "task", task=task_pb2.Task(description="the new one", kind=client.scheduler.kind))
    await store.fire()
    [task] = await client.tasks()
    assert task.description == "the new one"


async def test_a_trigger_starts_one_run_now_also_of_a_paused_schedule(client: Client, store: Store) -> None:
    await client.create("s", paused=True)
    bob = Principal("bob", client.ada.tenant_id, frozenset({"user"}))
    request = pb.TriggerScheduleRequest(schedule_id="s", request_id="once")
    async with client.scheduler.worker() as worker:
        task_id = (await client.call("TriggerSchedule", request, bob)).task_id
        assert (await client.call("TriggerSchedule", request, bob)).task_id == task_id
        lease = await worker.lease()
    assert (lease.task.task_id, lease.task.created_by) == (task_id, "bob")
    assert dict(lease.task.labels) == {"guildmesh.schedule_id": "s"}
    other = (await client.call("TriggerSchedule", pb.TriggerScheduleRequest(schedule_id="s"))).task_id
    assert other != task_id
    schedule = await client.get("s")
    assert (schedule.run_count, schedule.last_task_id, schedule.paused) == (2, other, True)
    await client.update("s", "task", task=task_pb2.Task(description="another"))
    with pytest.raises(grpc.aio.AioRpcError) as reused:
        await client.call("TriggerSchedule", request)
    assert reused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert error_info(reused.value) == ("REQUEST_ID_REUSED", {"request_id": "once"})
    store.sound()


async def test_a_backfill_starts_the_runs_of_a_time_that_is_over(client: Client, store: Store) -> None:
    await client.create("s", cron="@hourly")
    first, last = datetime(2026, 11, 20, 10, tzinfo=UTC), datetime(2026, 11, 20, 13, tzinfo=UTC)
    request = pb.BackfillScheduleRequest(schedule_id="s", start_time=first, end_time=last, request_id="again")
    task_ids = list((await client.call("BackfillSchedule", request)).task_ids)
    assert list((await client.call("BackfillSchedule", request)).task_ids) == task_ids
    found = {task.task_id: task for task in await client.tasks()}
    assert [found[task_id].labels[LABEL] for task_id in task_ids] == [f"2026-11-20T{hour}:00:00Z" for hour in (10, 11, 12, 13)]
    assert (await client.get("s")).run_count == 4
    large = pb.BackfillScheduleRequest(schedule_id="s", start_time=first - timedelta(days=30), end_time=last)
    assert await refused(client.call("BackfillSchedule", large)) == (grpc.StatusCode.INVALID_ARGUMENT, "BACKFILL_TOO_LARGE")
    for start, end in ((last, first), (first, datetime.now(UTC) + timedelta(days=1))):
        wrong = pb.BackfillScheduleRequest(schedule_id="s", start_time=start, end_time=end)
        assert (await refused(client.call("BackfillSchedule", wrong)))[1] == "INVALID_ARGUMENT"
    assert len(await client.tasks()) == 4


async def test_a_deleted_schedule_starts_nothing_and_its_tasks_go_on(client: Client, store: Store) -> None:
    created = await client.create("s")
    store.past("s", 0)
    await store.fire()
    store.past("s", 0)
    await client.call("DeleteSchedule", pb.DeleteScheduleRequest(schedule_id="s", etag=created.etag))
    await store.fire()
    [task] = await client.tasks()
    assert task.status == "pending"
    # Another one of this name has nothing of the first.
    again = await client.create("s")
    assert (again.run_count, again.last_task_id) == (0, "")
    assert again.etag != created.etag


async def test_a_schedule_ends_after_its_last_run(client: Client, store: Store) -> None:
    end = datetime.now(UTC) + timedelta(days=1)
    await client.create("s", cron="* * * * *", end_time=end)
    store.past("s", 0)
    store.query("UPDATE schedules SET end_time = next_time")
    await store.fire()
    schedule = await client.get("s")
    assert (schedule.run_count, schedule.HasField("next_run_time"), list(schedule.next_run_times)) == (1, False, [])


async def test_a_tenant_sees_and_changes_only_its_own(client: Client, store: Store) -> None:
    bob = Principal("bob", unique("globex"), frozenset({"user"}))
    await client.create("s", note="ada's")
    await client.create("s", by=bob, note="bob's")
    listed = await client.call("ListSchedules", pb.ListSchedulesRequest(), bob)
    assert [schedule.note for schedule in listed.schedules] == ["bob's"]
    await client.call("DeleteSchedule", pb.DeleteScheduleRequest(schedule_id="s"), bob)
    assert (await client.get("s")).note == "ada's"
    assert (await refused(client.call("TriggerSchedule", pb.TriggerScheduleRequest(schedule_id="s"), bob)))[1] == (
        "SCHEDULE_NOT_FOUND"
    )
    # The database alone keeps them apart, too.
    async with store.driver.tenant(bob.tenant_id) as connection:
        assert await connection.fetchval("SELECT count(*) FROM schedules") == 0
        assert await connection.execute("UPDATE schedules SET note = ''") == "UPDATE 0"
    # Each run is its tenant's.
    await client.create("t", by=bob)
    store.query("UPDATE schedules SET next_time = now(), wake_time = now()")
    await store.fire()
    owners = dict(store.query("SELECT tenant_id, count(*) FROM tasks GROUP BY tenant_id"))
    assert owners == {client.ada.tenant_id: 1, bob.tenant_id: 1}


async def test_a_tenant_has_no_more_schedules_than_it_may_however_many_are_created_at_once(
    own_settings: MakeSettings, store: Store, scheduler_tls: Path
) -> None:
    async with (
        running(open_service, own_settings(max_schedules=3), scheduler_tls) as one,
        running(open_service, own_settings(max_schedules=3), scheduler_tls) as two,
    ):
        first = Client(Scheduler(one))
        second = Client(Scheduler(two, ada=first.ada))
        answers = await asyncio.gather(
            *(client.create(f"s{number}") for number in range(10) for client in (first, second)), return_exceptions=True
        )
        created = {answer.schedule_id for answer in answers if isinstance(answer, schedule_pb2.Schedule)}
        reasons = {error_info(answer)[0] for answer in answers if isinstance(answer, grpc.aio.AioRpcError)}
        assert store.one("SELECT count(*) FROM schedules") == len(created) == 3
        assert reasons in ({"TOO_MANY_SCHEDULES"}, {"TOO_MANY_SCHEDULES", "SCHEDULE_EXISTS"})
        assert await refused(first.create()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_SCHEDULES")
        # A repeat of a call that succeeded is told what it is.
        there = min(created)
        assert await refused(first.create(there)) == (grpc.StatusCode.ALREADY_EXISTS, "SCHEDULE_EXISTS")
        # Another tenant has its own.
        await second.create(by=Principal("eve", unique("other"), frozenset({"user"})))
        await first.call("DeleteSchedule", pb.DeleteScheduleRequest(schedule_id=there))
        await second.create("again")
