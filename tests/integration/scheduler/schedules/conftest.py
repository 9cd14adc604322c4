"""A scheduler that starts due runs when a test says so, and what is in its tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg2
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from guildmesh.scheduler.v1 import schedule_pb2, task_pb2
from guildmesh.scheduler.v1 import schedule_service_pb2 as pb
from guildmesh.scheduler.v1 import schedule_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2 as tasks_pb
from pydantic import SecretStr

from services.common.context import Principal
from services.common.db.driver import Driver, open_driver
from services.common.db.engine_role import EngineDriver
from services.common.db.migrations import migrate
from services.common.grpcx.status import error_info
from services.embedded.data_check import check_data
from services.embedded.parts.postgres import Postgres
from services.embedded.running import RunningPart
from services.scheduler.bootstrap import open_service
from services.scheduler.domain.wake import Wake
from services.scheduler.server.schedule_convert import scheduled_task
from services.scheduler.storage import fire_batch
from services.scheduler.storage.decided_queues import DecidedQueues
from services.scheduler.storage.fire_batch import DueSchedules
from services.scheduler.usecases.fire_schedules import FireSchedules
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
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
    contents = None

    def wake(self, wake: Wake) -> None:
        """Wakes nobody."""


@dataclass
class Store:
    """The tables of a scheduler, and what a replica does for its schedules."""

    url: str
    driver: Driver

    def replica(self) -> DueSchedules:
        engine = EngineDriver(self.driver)
        return DueSchedules(engine, Nobody(), timedelta(seconds=2), 30, scheduled_task, DecidedQueues(engine))

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
