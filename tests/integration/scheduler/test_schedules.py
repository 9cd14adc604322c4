"""Schedules on real PostgreSQL: each time has one run, whatever dies, whoever else looks, and however late it is.

Nobody waits for the minute: a schedule becomes due by moving what it has to do next into the past, in its row. What is then done
is done by the code that does it always, by the database's clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg2
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from guildmesh.scheduler.v1 import schedule_pb2, task_pb2
from guildmesh.scheduler.v1 import schedule_service_pb2 as pb
from guildmesh.scheduler.v1 import schedule_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2 as tasks_pb
from pydantic import SecretStr

from services.common.context import Principal
from services.common.db.driver import Driver, open_driver
from services.common.db.engine_role import EngineDriver
from services.common.db.migrations import migrate
from services.common.failpoints import CRASH_STATUS
from services.common.grpcx.status import error_info
from services.embedded.data_check import check_data
from services.embedded.parts.postgres import Postgres
from services.embedded.running import RunningPart
from services.scheduler.bootstrap import open_service
from services.scheduler.domain.errors import ParentTaskEnded
from services.scheduler.domain.wake import Wake
from services.scheduler.server.schedule_convert import scheduled_task
from services.scheduler.storage import create_batch, fire_batch
from services.scheduler.storage.fire_batch import DueSchedules
from services.scheduler.usecases.fire_schedules import FireSchedules
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
from tests.integration.scheduler.processes import Process
from tests.support.service import metadata, running

ALLOW, SKIP, BUFFER_ONE, CANCEL_RUNNING = (
    schedule_pb2.OVERLAP_POLICY_ALLOW,
    schedule_pb2.OVERLAP_POLICY_SKIP,
    schedule_pb2.OVERLAP_POLICY_BUFFER_ONE,
    schedule_pb2.OVERLAP_POLICY_CANCEL_RUNNING,
)
MISSED_SKIP, RUN_LAST, RUN_ALL = (
    schedule_pb2.MISSED_RUN_POLICY_SKIP,
    schedule_pb2.MISSED_RUN_POLICY_RUN_LAST,
    schedule_pb2.MISSED_RUN_POLICY_RUN_ALL,
)
LABEL = "guildmesh.schedule_time"


class Nobody:
    """Nobody waits in this process."""

    origin = "a-test"
    watched: tuple[tuple[str, str], ...] = ()

    def wake(self, wake: Wake) -> None:
        """Wakes nobody."""


@dataclass
class Store:
    """The tables of a scheduler, and what a replica does for its schedules."""

    url: str
    driver: Driver

    def replica(self) -> DueSchedules:
        return DueSchedules(EngineDriver(self.driver), Nobody(), timedelta(seconds=2), 30, scheduled_task)

    async def fire(self) -> int:
        """Has a replica do all that is due; gives the number of turns that took."""
        replica = self.replica()
        turns = 0
        while (await replica.fire()).schedules:
            turns += 1
        return turns

    def query(self, statement: str, *arguments: object) -> list[Any]:
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("SET ROLE scheduler_engine; SET search_path = scheduler")
            cursor.execute(statement, arguments)
            return list(cursor.fetchall()) if cursor.description else []

    def one(self, statement: str) -> Any:
        [(value,)] = self.query(statement)
        return value

    def past(self, schedule_id: str, minutes: int) -> None:
        """Has the next run of a schedule due that long ago, at a full minute."""
        moved = "date_trunc('minute', now()) - %s * interval '1 minute'"
        statement = f"UPDATE schedules SET next_time = {moved}, wake_time = {moved} WHERE schedule_id = %s RETURNING true"
        assert self.query(statement, minutes, minutes, schedule_id), "there is no such schedule"

    def sound(self) -> None:
        """What is left fits together."""
        assert [text for finding in check_data(self.url) for text in finding.problems] == []


@dataclass
class Client:
    """Calls ScheduleService as the gateway does for ada's tenant."""

    scheduler: Scheduler
    stub: Any = field(init=False)

    def __post_init__(self) -> None:
        self.stub = pb_grpc.ScheduleServiceStub(self.scheduler.channel)
        self.ada = self.scheduler.ada

    async def call(self, method: str, request: Any, by: Principal | None = None) -> Any:
        return await getattr(self.stub, method)(request, metadata=metadata(by or self.ada))

    async def create(self, schedule_id: str = "", by: Principal | None = None, **fields: Any) -> schedule_pb2.Schedule:
        task = fields.pop("task", None) or task_pb2.Task(description="do it", kind=self.scheduler.kind)
        # Not due by itself while a test runs.
        values = {"cron": "0 0 29 2 *", "task": task} | fields
        request = pb.CreateScheduleRequest(schedule=schedule_pb2.Schedule(**values), schedule_id=schedule_id)
        created: schedule_pb2.Schedule = await self.call("CreateSchedule", request, by)
        return created

    async def get(self, schedule_id: str) -> schedule_pb2.Schedule:
        found: schedule_pb2.Schedule = await self.call("GetSchedule", pb.GetScheduleRequest(schedule_id=schedule_id))
        return found

    async def update(self, schedule_id: str, *mask: str, **fields: Any) -> schedule_pb2.Schedule:
        schedule = schedule_pb2.Schedule(schedule_id=schedule_id, **fields)
        request = pb.UpdateScheduleRequest(schedule=schedule, update_mask=FieldMask(paths=mask))
        changed: schedule_pb2.Schedule = await self.call("UpdateSchedule", request)
        return changed

    async def tasks(self, schedule_id: str = "") -> list[task_pb2.Task]:
        """The tasks of ada's tenant (of one schedule), the oldest first."""
        listed = await self.scheduler.stub.ListTasks(tasks_pb.ListTasksRequest(page_size=200), metadata=metadata(self.ada))
        found = [task for task in listed.tasks if not schedule_id or task.labels["guildmesh.schedule_id"] == schedule_id]
        return sorted(found, key=lambda task: task.task_id)


@pytest.fixture(scope="module")
def own_settings(scheduler_settings: MakeSettings, postgres_server: RunningPart) -> MakeSettings:
    """Settings of a scheduler with a database for the tests here: a replica starts what is due of all tenants."""
    assert isinstance(postgres_server.part, Postgres)
    url = SecretStr(postgres_server.part.create_database(unique("schedules").replace("-", "_")))

    def make(**changes: Any) -> Any:
        return scheduler_settings(database_url=url, **changes)

    migrate(make(), package="services.scheduler.storage.migrations", schema="scheduler")
    return make


@pytest.fixture
async def store(own_settings: MakeSettings) -> AsyncIterator[Store]:
    """The database, with nothing in it."""
    settings = own_settings()
    async with open_driver(settings, "scheduler") as driver:
        store = Store(settings.database_url.get_secret_value(), driver)
        for table in ("schedules", "tasks", "finished_tasks", "task_events", "outbox", "task_requests", "task_count_changes"):
            store.query(f"DELETE FROM {table}")
        yield store


@pytest.fixture
async def client(
    own_settings: MakeSettings,
    store: Store,
    scheduler_tls: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Client]:
    """A scheduler that does not look for due schedules itself: `Store.fire` does it when the test says so."""

    async def never(_: FireSchedules) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(FireSchedules, "run", never)
    async with running(open_service, own_settings(), scheduler_tls) as server:
        yield Client(Scheduler(server))


@pytest.fixture
def limits() -> Iterator[Callable[..., None]]:
    """Makes turns smaller."""
    before = {name: getattr(fire_batch, name) for name in ("SCHEDULES", "TIMES", "TASKS", "RUNS", "BYTES")}

    def limit(**smaller: int) -> None:
        for name, value in smaller.items():
            assert name in before
            setattr(fire_batch, name, value)

    yield limit
    for name, value in before.items():
        setattr(fire_batch, name, value)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error_info(error.value)[0]


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


async def test_a_run_is_a_task_like_any_other_and_says_where_it_comes_from(client: Client, store: Store) -> None:
    template = task_pb2.Task(description="report", kind=client.scheduler.kind, queue="research", labels={"team": "a"})
    template.context.update({"year": 2026})
    await client.create("minutely", cron="* * * * *", task=template)
    assert await client.tasks() == []
    store.past("minutely", 0)
    # Workers wait already: the commit's notification is what wakes them.
    async with client.scheduler.worker() as worker:
        assert await store.fire() == 1
        lease = await worker.lease()
        assert dict(lease.task.context) == {"year": 2026}
        assert (lease.task.description, lease.task.queue, lease.task.created_by) == ("report", "research", "ada")
        label = datetime.fromisoformat(lease.task.labels[LABEL])
        assert dict(lease.task.labels) == {"team": "a", "guildmesh.schedule_id": "minutely", LABEL: lease.task.labels[LABEL]}
        assert (label.tzinfo, label.second) == (UTC, 0)
        await worker.complete(lease)
    events = await client.scheduler.watch(lease.task.task_id)
    assert [event.number for event in events] == [1, 2, 3]
    schedule = await client.get("minutely")
    assert (schedule.run_count, schedule.last_task_id) == (1, lease.task.task_id)
    assert schedule.next_run_time.ToDatetime(UTC) > label
    assert schedule.last_run_time.ToDatetime(UTC) >= label
    store.sound()


async def test_a_scheduler_starts_what_is_due_by_itself(own_settings: MakeSettings, scheduler_tls: Path, store: Store) -> None:
    async with running(open_service, own_settings(schedule_poll_seconds=0.1), scheduler_tls) as server:
        client = Client(Scheduler(server))
        await client.create("s")
        store.past("s", 0)
        async with client.scheduler.worker() as worker:
            await worker.complete(await worker.lease())
    assert store.one("SELECT run_count FROM schedules") == 1


# Nobody was there for the runs of ten minutes ago and since then.
@pytest.mark.parametrize(("policy", "started"), [(MISSED_SKIP, 1), (RUN_LAST, 1), (RUN_ALL, 11)])
async def test_a_scheduler_that_was_away_makes_up_for_it_as_the_policy_says(
    client: Client, store: Store, policy: Any, started: int
) -> None:
    await client.create("s", cron="* * * * *", missed_run_policy=policy, overlap_policy=ALLOW)
    store.past("s", 10)
    await store.fire()
    schedule = await client.get("s")
    # The test itself may see the next minute begin.
    assert started <= schedule.run_count <= started + 1
    assert schedule.run_count + schedule.skipped_count in (11, 12)
    labels = [datetime.fromisoformat(task.labels[LABEL]) for task in await client.tasks()]
    assert labels == sorted(set(labels))
    assert len(labels) == schedule.run_count
    assert schedule.next_run_time.ToDatetime(UTC) > max(labels)


@pytest.mark.parametrize(("policy", "started"), [(MISSED_SKIP, 0), (RUN_LAST, 1), (RUN_ALL, 1)])
async def test_one_run_of_the_day_that_was_missed(client: Client, store: Store, policy: Any, started: int) -> None:
    await client.create("s", missed_run_policy=policy)
    store.past("s", 125)
    await store.fire()
    schedule = await client.get("s")
    assert (schedule.run_count, schedule.skipped_count) == (started, 1 - started)


async def test_what_is_too_late_is_skipped_whatever_the_policy(client: Client, store: Store) -> None:
    await client.create("s", missed_run_policy=RUN_ALL, catch_up_window=timedelta(minutes=90))
    store.past("s", 125)
    await store.fire()
    schedule = await client.get("s")
    assert (schedule.run_count, schedule.skipped_count) == (0, 1)


async def test_a_long_outage_is_made_up_for_in_small_turns(client: Client, store: Store, limits: Callable[..., None]) -> None:
    await client.create("all", cron="* * * * *", missed_run_policy=RUN_ALL, overlap_policy=ALLOW)
    await client.create("last", cron="* * * * *")
    store.past("all", 100)
    store.past("last", 100)
    limits(TIMES=30, RUNS=7)
    assert await store.fire() >= 15
    everything, last = await client.get("all"), await client.get("last")
    assert everything.run_count in (101, 102)
    assert everything.skipped_count == 0
    assert last.run_count == 1
    assert last.skipped_count in (100, 101)
    assert len({task.labels[LABEL] for task in await client.tasks("all")}) == everything.run_count


async def test_replicas_that_look_at_once_start_each_run_once(client: Client, store: Store, limits: Callable[..., None]) -> None:
    for number in range(40):
        await client.create(f"s{number}", cron="* * * * *", missed_run_policy=RUN_ALL, overlap_policy=ALLOW)
    store.query("UPDATE schedules SET next_time = now() - interval '2 minutes', wake_time = now() - interval '2 minutes'")
    limits(SCHEDULES=7)
    await asyncio.gather(*(store.fire() for _ in range(4)))
    # A replica may end while another has the rest in hand.
    await store.fire()
    runs = [(task.labels["guildmesh.schedule_id"], task.labels[LABEL]) for task in await client.tasks()]
    assert len(runs) == len(set(runs))
    assert {schedule for schedule, _ in runs} == {f"s{number}" for number in range(40)}
    assert store.one("SELECT sum(run_count) FROM schedules") == len(runs)
    store.sound()


@pytest.mark.parametrize(("place", "committed"), [("before", 0), ("after", 1)])
async def test_a_scheduler_that_dies_around_its_commit_leaves_one_task_for_each_time(
    client: Client, store: Store, scheduler_tls: Path, tmp_path: Path, place: str, committed: int
) -> None:
    await client.create("s", overlap_policy=ALLOW)
    store.past("s", 0)
    environment = {
        "DATABASE_URL": store.url,
        "GUILDMESH_TLS_DIR": str(scheduler_tls / "scheduler"),
        "GUILDMESH_PORT": "0",
        "GUILDMESH_ADMIN_PORT": "0",
        "GUILDMESH_FAILPOINTS": f"scheduler.fire.{place}_commit=crash@1",
    }
    process = Process("services.scheduler", environment, tmp_path / "scheduler.log")
    await process.start()
    assert process._process is not None
    try:
        async with asyncio.timeout(30):
            assert await process._process.wait() == CRASH_STATUS, process.tail()
    finally:
        if process._process.returncode is None:
            await process.kill()
    assert len(await client.tasks()) == committed
    await store.fire()
    assert len(await client.tasks()) == 1
    assert (await client.get("s")).run_count == 1
    store.sound()


async def test_the_request_id_is_a_second_lock(client: Client, store: Store) -> None:
    """A row that is set back, as by a backup of an older state, starts nothing again that has its task still."""
    await client.create("s", overlap_policy=ALLOW)
    store.past("s", 0)
    before = store.query("SELECT next_time FROM schedules")[0][0]
    await store.fire()
    store.query("UPDATE schedules SET next_time = %s, wake_time = %s", before, before)
    await store.fire()
    assert len(await client.tasks()) == 1
    assert (await client.get("s")).run_count == 1


async def test_overlapping_runs_are_skipped_by_default(client: Client, store: Store) -> None:
    await client.create("s")
    async with client.scheduler.worker() as worker:
        for minutes in (5, 4, 3):
            store.past("s", minutes)
            await store.fire()
        lease = await worker.lease()
        schedule = await client.get("s")
        assert (schedule.run_count, schedule.skipped_count) == (1, 2)
        await worker.complete(lease)
        store.past("s", 2)
        await store.fire()
        assert (await worker.lease()).task.task_id != lease.task.task_id
    assert (await client.get("s")).run_count == 2


async def test_overlapping_runs_that_are_allowed_run_beside_each_other(client: Client, store: Store) -> None:
    await client.create("s", overlap_policy=ALLOW)
    for minutes in (2, 1, 0):
        store.past("s", minutes)
        await store.fire()
    assert len(await client.tasks()) == 3


async def test_one_overlapping_run_waits_for_the_end_of_the_one_before(client: Client, store: Store) -> None:
    await client.create("s", overlap_policy=BUFFER_ONE)
    async with client.scheduler.worker() as worker:
        for minutes in (3, 2, 1, 0):
            store.past("s", minutes)
            await store.fire()
        first = await worker.lease()
        schedule = await client.get("s")
        assert (schedule.run_count, schedule.skipped_count) == (1, 2)
        waiting = store.one("SELECT buffered_time FROM schedules")
        assert await store.fire() == 0, "the run before goes on"
        await worker.complete(first)
        await store.fire()
        second = await worker.lease()
        times = [datetime.fromisoformat(lease.task.labels[LABEL]) for lease in (first, second)]
        assert times[0] < times[1] == waiting
        await worker.complete(second)
        assert await store.fire() == 0
    assert (await client.get("s")).run_count == 2
    store.sound()


async def test_overlapping_runs_may_be_cancelled_with_their_subtasks(client: Client, store: Store) -> None:
    await client.create("s", overlap_policy=CANCEL_RUNNING)
    store.past("s", 1)
    await store.fire()
    async with client.scheduler.worker(credits=1) as worker:
        lease = await worker.lease()
        child = await client.scheduler.create("part of it", kind=unique("kind"), parent_task_id=lease.task.task_id)
        store.past("s", 0)
        await store.fire()
        assert (await worker.answer("cancels")).reason == "CANCELLED"
    old, part = await client.scheduler.get(lease.task.task_id), await client.scheduler.get(child.task_id)
    assert (old.status, part.status) == ("cancelled", "cancelled")
    first, second = await client.tasks("s")
    assert (first.task_id, second.status) == (old.task_id, "pending")
    assert (await client.get("s")).run_count == 2
    store.sound()


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


# What harm is done to a schedule, and what it says then.
HARMS = {
    "its zone is no longer known": ("UPDATE schedules SET time_zone = 'Mars/Base'", "No time zone"),
    "its expression is no longer read": ("UPDATE schedules SET cron = '* * *'", "cron expression"),
    "its task cannot be read": (r"UPDATE schedules SET task = '\xff'", "It cannot run"),
    "its task does not fit into a row": (
        # Field 7 of Task, the priority: 100,000.
        r"UPDATE schedules SET task = task || '\x38a08d06'",
        "It cannot run",
    ),
}


async def test_schedules_that_cannot_run_are_paused_with_the_reason_and_stop_no_other(client: Client, store: Store) -> None:
    bad = {f"bad-{number}": told for number, (_, told) in enumerate(HARMS.values())}
    for name in ("a", *bad, "z"):
        await client.create(name)
        store.past(name, 0)
    for name, (statement, _) in zip(bad, HARMS.values(), strict=True):
        store.query(statement + " WHERE schedule_id = %s", name)
    # The bad ones are the first in line, again and again.
    store.query("UPDATE schedules SET wake_time = wake_time - interval '1 s' WHERE schedule_id LIKE 'bad-%%'")
    before = fire_batch.broken._value.get()
    await store.fire()
    assert dict(store.query("SELECT schedule_id, run_count FROM schedules")) == {"a": 1, "z": 1} | dict.fromkeys(bad, 0)
    for name, paused, error in store.query("SELECT schedule_id, paused, last_error FROM schedules WHERE run_count = 0"):
        assert paused, name
        assert bad[name] in error, name
    assert fire_batch.broken._value.get() == before + len(bad)
    assert await store.fire() == 0
    store.sound()


async def test_a_run_without_its_queue_is_told_and_the_next_one_starts_when_the_queue_is_back(
    client: Client, store: Store
) -> None:
    await client.create("s", task=task_pb2.Task(description="x", queue="code"))
    await client.create("good")
    store.query("DELETE FROM queues WHERE queue = 'code'")
    store.past("s", 0)
    store.past("good", 0)
    await store.fire()
    schedule = await client.get("s")
    assert (schedule.run_count, schedule.skipped_count, schedule.paused) == (0, 1, False)
    assert "No queue 'code'" in schedule.last_error
    assert (await client.get("good")).run_count == 1
    store.query("INSERT INTO queues (queue, priority) VALUES ('code', 5)")
    store.past("s", 0)
    await store.fire()
    schedule = await client.get("s")
    assert (schedule.run_count, schedule.last_error) == (1, "")


async def test_a_task_that_is_refused_is_told_and_the_others_start(
    client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bad", "good"):
        await client.create(name)
        store.past(name, 0)

    async def create_tasks(connection: Any, clock: Any, log: Any, items: Any, lease: Any) -> list[Any]:
        """As the real one answers a task that it refuses, such as one whose deadline is over."""
        refused = [item for item in items if item.labels["guildmesh.schedule_id"] == "bad"]
        answers = iter(await create_batch.create_tasks(connection, clock, log, [i for i in items if i not in refused], lease))
        return [ParentTaskEnded("x") if item in refused else next(answers) for item in items]

    monkeypatch.setattr(fire_batch, "create_tasks", create_tasks)
    await store.fire()
    bad, good = await client.get("bad"), await client.get("good")
    assert (bad.run_count, bad.skipped_count, bad.paused) == (0, 1, False)
    assert "parent task has ended" in bad.last_error
    assert (good.run_count, good.skipped_count) == (1, 0)


async def test_what_is_wrong_with_the_database_pauses_nobody(client: Client, store: Store) -> None:
    await client.create("s")
    store.past("s", 0)

    def broken(*_: object) -> Any:
        raise AssertionError("a fault of ours")

    replica = store.replica()
    replica._check_queues = broken  # type: ignore[method-assign]
    assert (await replica.fire()).schedules == 0
    assert not (await client.get("s")).paused
    await store.fire()
    assert (await client.get("s")).run_count == 1


async def test_a_thousand_schedules_that_are_due_at_once(client: Client, store: Store) -> None:
    await client.create("s0")
    columns = store.one(
        "SELECT string_agg(column_name, ', ') FROM information_schema.columns"
        " WHERE table_name = 'schedules' AND column_name NOT IN ('schedule_id', 'uid')",
    )
    store.query(
        f"INSERT INTO schedules (schedule_id, uid, {columns})"
        f" SELECT 's' || n, gen_random_uuid(), {columns} FROM schedules, generate_series(1, 999) n"
    )
    store.query("UPDATE schedules SET next_time = now(), wake_time = now()")
    turns = sum(await asyncio.gather(store.fire(), store.fire()))
    await store.fire()
    assert 4 <= turns <= 12
    assert store.one("SELECT count(*) FROM schedules WHERE run_count = 1 AND skipped_count = 0") == 1000
    assert store.one("SELECT count(*) FROM tasks") == 1000
    late = "SELECT extract(epoch FROM max(last_run_time) - min(last_run_time))::float FROM schedules"
    assert store.one(late) < 10
    store.sound()
