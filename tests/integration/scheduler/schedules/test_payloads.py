"""Schedules whose tasks have a payload as their context: it stays as long as the schedule is, and goes when nobody needs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from guildmesh.scheduler.v1 import payload_pb2, task_pb2
from guildmesh.scheduler.v1 import schedule_service_pb2 as pb

from services.common.context import Principal
from services.scheduler.bootstrap import open_service
from services.scheduler.usecases.fire_schedules import FireSchedules
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
from tests.integration.scheduler.schedules.conftest import Client, Store, refused
from tests.integration.scheduler.test_payloads import Uploads, until
from tests.support.service import running

NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "PAYLOAD_NOT_FOUND")
Opening = Callable[[float], AbstractAsyncContextManager[tuple[Client, Uploads]]]


@pytest.fixture
def opening(
    own_settings: MakeSettings, store: Store, scheduler_tls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Opening:
    """Opens a scheduler that starts no due run by itself, and keeps payloads that nothing uses for so many seconds."""

    async def never(_: FireSchedules) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(FireSchedules, "run", never)

    @asynccontextmanager
    async def opened(unused: float) -> AsyncIterator[tuple[Client, Uploads]]:
        settings = own_settings(
            object_store_url=tmp_path.as_uri(),
            payload_sweep_seconds=0.1,
            payload_check_seconds=0.1,
            payload_unused_seconds=unused,
        )
        async with running(open_service, settings, scheduler_tls) as server:
            scheduler = Scheduler(server)
            yield Client(scheduler), Uploads(scheduler, tmp_path)

    return opened


def template(client: Client, payload_id: str) -> task_pb2.Task:
    return task_pb2.Task(description="report", kind=client.scheduler.kind, context_payload=payload_id)


async def swept(uploads: Uploads) -> None:
    """Returns when sweeps have looked at everything after its time: this one has gone."""
    before = len(uploads.files())
    await uploads.up(b"[]")
    await until(lambda: len(uploads.files()) <= before)


async def test_all_runs_have_the_payload_and_it_goes_with_the_schedule_and_its_last_task(opening: Opening, store: Store) -> None:
    async with opening(0.6) as (client, uploads):
        first, second = await uploads.up(b'{"year": 2026}'), await uploads.up(b'{"year": 2027}')
        made = await client.create("minutely", cron="* * * * *", task=template(client, first.payload_id.upper()))
        await client.create("yearly", task=template(client, second.payload_id))
        assert made.task.context_payload == first.payload_id
        await swept(uploads)
        assert await refused(uploads.delete(first.payload_id)) == (grpc.StatusCode.FAILED_PRECONDITION, "PAYLOAD_IN_USE")
        # By itself, on demand, and for a time that is over.
        store.past("minutely", 0)
        assert await store.fire() == 1
        await client.call("TriggerSchedule", pb.TriggerScheduleRequest(schedule_id="minutely"))
        request = pb.BackfillScheduleRequest(schedule_id="minutely")
        now = datetime.now(UTC)
        request.start_time.FromDatetime(now - timedelta(minutes=3, seconds=30))
        request.end_time.FromDatetime(now - timedelta(minutes=1, seconds=30))
        assert len((await client.call("BackfillSchedule", request)).task_ids) == 2
        tasks = await client.tasks("minutely")
        assert [task.context_payload for task in tasks] == [first.payload_id] * 4
        async with client.scheduler.worker() as worker:
            for _ in tasks:
                lease = await worker.lease()
                assert (await uploads.down(lease.task.context_payload))[1] == b'{"year": 2026}'
                await worker.complete(lease)
        # Another payload: what the tasks have stays.
        changed = await client.update("minutely", "task", task=template(client, second.payload_id))
        assert changed.task.context_payload == second.payload_id
        await swept(uploads)
        assert (await uploads.down(first.payload_id))[1] == b'{"year": 2026}'
        store.sound()
        store.query("DELETE FROM finished_tasks WHERE task_id = ANY(%s::uuid[])", [task.task_id for task in tasks])
        await until(lambda: len(uploads.files()) == 1)
        # And none: the other schedule has it still.
        changed = await client.update("minutely", "task", task=task_pb2.Task(description="report", context=Struct()))
        assert changed.task.context_payload == ""
        await swept(uploads)
        assert (await uploads.down(second.payload_id))[1] == b'{"year": 2027}'
        await client.call("DeleteSchedule", pb.DeleteScheduleRequest(schedule_id="yearly"))
        await uploads.until_no_files()


async def test_a_schedule_names_only_what_its_tenant_has(opening: Opening) -> None:
    async with opening(60) as (client, uploads):
        foreign = await uploads.up(b"{}", by=Principal("bob", unique("globex"), frozenset({"user"})))
        assert await refused(client.create("foreign", task=template(client, foreign.payload_id))) == NOT_FOUND
        mine = await uploads.up(b"{}")
        both = template(client, mine.payload_id)
        both.context.SetInParent()
        assert await refused(client.create("both", task=both)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
        await client.create("mine", task=template(client, mine.payload_id))
        assert await refused(client.update("mine", "task", task=template(client, foreign.payload_id))) == NOT_FOUND
        assert (await client.get("mine")).task.context_payload == mine.payload_id


async def test_a_schedule_and_the_sweep_agree_on_what_is_there(opening: Opening, store: Store) -> None:
    """Each payload is named by a schedule, and given up by one, at about the moment in which it is looked at."""
    async with opening(1.0) as (client, uploads):
        payloads = [await uploads.up(b"{}") for _ in range(30)]
        kept = []

        async def name(place: int, payload: payload_pb2.Payload) -> None:
            payload_id = payload.payload_id
            left = payload.expire_time.ToDatetime(UTC) - datetime.now(UTC)
            await asyncio.sleep(left.total_seconds() + (place - 20) * 0.02)
            try:
                await client.create(f"schedule-{place}", cron="* * * * *", task=template(client, payload_id))
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                return
            store.past(f"schedule-{place}", 0)
            # One of them is deleted while its run starts, and the task has the payload then, or there is none.
            request = pb.DeleteScheduleRequest(schedule_id=f"schedule-{place}")
            await asyncio.gather(store.fire(), *(client.call("DeleteSchedule", each) for each in [request][: place % 2]))
            kept.append(payload_id)

        await asyncio.gather(*(name(place, payload) for place, payload in enumerate(payloads)))
        await swept(uploads)
        used = {task.context_payload for task in await client.tasks()}
        used |= {row[0] for row in store.query("SELECT context_payload::text FROM schedules WHERE context_payload IS NOT NULL")}
        assert used <= set(kept)
        await until(lambda: len(uploads.files()) == len(used))
        for payload_id in used:
            assert (await uploads.down(payload_id))[1] == b"{}"
        assert used, "none was there in time"
        store.sound()
