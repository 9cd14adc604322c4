"""Lists of tasks by filter and order: the same as a plain look at all of them gives, along indexes, page by page."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import grpc
import psycopg2
import pytest
from guildmesh.scheduler.v1 import dead_letter_service_pb2 as letters_pb
from guildmesh.scheduler.v1 import dead_letter_service_pb2_grpc as letters_grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh_client.cli import tasks as tasks_command
from guildmesh_client.cli.connection import Connection
from pydantic import SecretStr
from typer.testing import CliRunner

from services.common.context import Principal
from services.common.db.driver import Driver, open_driver
from services.common.db.migrations import migrate
from services.scheduler.domain.task import State
from services.scheduler.domain.task_filter import TaskFilter, parse_filter
from services.scheduler.storage import listing
from services.scheduler.storage.listing import list_statement
from services.scheduler.storage.tasks import LISTED_ACTIVE, LISTED_ENDED, Tasks
from services.scheduler.usecases.list_tasks import ListTasks
from tests.integration.scheduler.conftest import MakeSettings, Scheduler
from tests.support.service import metadata

TENANT = "acme"
# A third of the tasks waits or runs, the others have ended over the last ten days, in batches that end at one time.
_TASKS = """
INSERT INTO tasks (tenant_id, task_id, create_time, available_at, start_time, state, shard, queue_priority, priority,
  max_attempts, attempt, timeout_ms, next_event_number, log_events, queue, kind, traceparent, spec, log)
SELECT t.tenant, uuidv7(-(n || ' hours')::interval), clock_timestamp() - (n || ' hours')::interval, now(), now(), 1 + n % 2, 0, 1,
  1 + n % 10, 5, n % 3, 1000, 2, 0, (ARRAY['code', 'default', 'research'])[1 + n % 3], 'k' || n % 4, '', '', ''
FROM generate_series(1, %s) n, (VALUES ('acme'), ('other')) t (tenant)
"""
_ENDED = """
INSERT INTO finished_tasks (tenant_id, task_id, create_time, start_time, finish_time, state, attempt, next_event_number,
  log_events, progress, priority, queue, kind, traceparent, spec, log, error_reason, parent_task_id, retention_days)
SELECT t.tenant, uuidv7(-(n || ' hours')::interval), clock_timestamp() - (n || ' hours')::interval,
  now() - (n || ' hours')::interval, date_trunc('day', now() - (n || ' hours')::interval) + interval '1 day',
  CASE WHEN n % 5 = 0 THEN 4 + n / 5 % 2 ELSE 3 END, 1 + n % 3, 4, 3, 1, 1 + n % 10,
  (ARRAY['code', 'default', 'research'])[1 + n % 3], 'k' || n % 4, '', '', '', CASE WHEN n % 5 = 0 THEN 'R' || n % 2 END,
  CASE WHEN n % 7 = 0 THEN '01990000-0000-7000-8000-00000000000a'::uuid END, (ARRAY[0, 30, 90])[1 + n % 3]
FROM generate_series(1, %s) n, (VALUES ('acme'), ('other')) t (tenant)
"""


@pytest.fixture
async def database(scheduler_settings: MakeSettings, empty_database_url: str) -> AsyncIterator[Driver]:
    settings = scheduler_settings(database_url=SecretStr(empty_database_url))
    migrate(settings, package="services.scheduler.storage.migrations", schema="scheduler")
    with closing(psycopg2.connect(empty_database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine; SET search_path = scheduler")
        cursor.execute(_TASKS.replace("%s", "120"))
        cursor.execute(_ENDED.replace("%s", "240"))
    async with open_driver(settings, "scheduler") as driver:
        yield driver


# A filter, and the same in Python.
FILTERS = {
    "": lambda task: True,
    "state = RUNNING": lambda task: task.state.name == "RUNNING",
    "state = COMPLETED": lambda task: task.state.name == "COMPLETED",
    "state = FAILED AND queue = code": lambda task: task.state.name == "FAILED" and queue(task) == "code",
    "state != COMPLETED AND state != PENDING": lambda task: task.state.name not in ("COMPLETED", "PENDING"),
    "state != FAILED AND priority >= 9": lambda task: task.state.name != "FAILED" and task.priority >= 9,
    "queue != code AND kind = k3 AND attempt <= 1": lambda task: (
        queue(task) != "code" and task.kind == "k3" and task.attempt <= 1
    ),
    "error.reason = R0": lambda task: task.error_reason == "R0",
    "error.reason != R0": lambda task: task.error_reason not in (None, "R0"),
    "parent_task_id = 01990000-0000-7000-8000-00000000000A": lambda task: task.parent is not None,
    "parent_task_id = 01990000-0000-7000-8000-00000000000A AND state = COMPLETED": lambda task: (
        task.parent is not None and task.state.name == "COMPLETED"
    ),
    "create_time >= {early} AND create_time < {late}": lambda task: task.early <= task.create_time < task.late,
    "finish_time >= {early} AND finish_time < {late} AND state = CANCELLED": lambda task: (
        task.finish_time is not None and task.early <= task.finish_time < task.late and task.state.name == "CANCELLED"
    ),
    "start_time > {late} AND state = PENDING": lambda task: task.start_time > task.late and task.state.name == "PENDING",
    "queue = nothing": lambda task: False,
}


def queue(task: Any) -> str:
    return str(task.queue)


class Seen:
    """A task as the tables have it."""

    def __init__(self, row: Any, early: datetime, late: datetime) -> None:
        (self.task_id, self.create_time, self.start_time, self.finish_time, state, self.attempt, self.priority, self.queue,
         self.kind, self.error_reason, self.parent) = row  # fmt: skip
        self.state = State(state)
        self.early, self.late = early, late


async def everything(database: Driver) -> list[Seen]:
    common = "task_id::text, create_time, start_time, {}, state, attempt, priority, queue, kind, {}, parent_task_id"
    async with database.tenant(TENANT) as connection:
        rows = await connection.fetch(
            f"SELECT {common.format('NULL', 'NULL')} FROM tasks UNION ALL"
            f" SELECT {common.format('finish_time', 'error_reason')} FROM finished_tasks"
        )
        now = await connection.fetchval("SELECT now()")
    early, late = now - timedelta(hours=100, minutes=30), now - timedelta(hours=20, minutes=30)
    return [Seen(tuple(row), early, late) for row in rows]


async def pages(list_tasks: ListTasks, wanted: TaskFilter, size: int) -> list[str]:
    found: list[str] = []
    token = ""
    for _ in range(400):
        tasks, token = await list_tasks.execute(TENANT, wanted, size, token)
        assert len(tasks) <= size
        found += [task.task_id for task in tasks]
        if not token:
            return found
    raise AssertionError("the pages do not end")


async def test_every_filter_and_order_gives_what_a_plain_look_gives(database: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = await everything(database)
    assert len(seen) == 360
    list_tasks = ListTasks(Tasks(database))
    for (text, meets), by_finish, descending in product(FILTERS.items(), (False, True), (False, True)):
        # With few entries looked at for a page most pages are short of tasks, and some have none.
        monkeypatch.setattr(listing, "LOOKED_AT", random.choice((7, 30, 5000)))
        filled = text.format(early=f'"{seen[0].early.isoformat()}"', late=f'"{seen[0].late.isoformat()}"')
        wanted = TaskFilter(parse_filter(filled), by_finish_time=by_finish, descending=descending)
        expected = [task for task in seen if meets(task) and not (by_finish and task.finish_time is None)]
        expected.sort(key=lambda task: (task.finish_time if by_finish else 0, task.task_id), reverse=descending)
        found = await pages(list_tasks, wanted, random.choice((3, 50, 200)))
        assert found == [task.task_id for task in expected], (text, by_finish, descending)


def scanned(node: dict[str, Any]) -> float:
    """Rows that the scans of a plan looked at."""
    looked = 0.0
    if "Scan" in node["Node Type"] and "Relation Name" in node:
        assert node["Node Type"] != "Seq Scan"
        looked = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    return looked + sum(scanned(child) for child in node.get("Plans", ()))


async def test_no_list_looks_at_all_of_a_large_table(database: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "LOOKED_AT", 60)
    async with database.transaction("BEGIN; SET LOCAL ROLE scheduler_engine; SET LOCAL search_path = scheduler") as connection:
        await connection.execute(_ENDED.replace("%s", "3000").replace(" hours'", " seconds'"))
    async with database.transaction("BEGIN") as connection:
        await connection.execute("ANALYZE scheduler.finished_tasks")
    for (text, _), by_finish in product(FILTERS.items(), (False, True)):
        filled = text.format(early='"2026-11-01T00:00:00Z"', late='"2036-11-22T00:00:00Z"')
        wanted = TaskFilter(parse_filter(filled), by_finish_time=by_finish)
        statement = list_statement(TENANT, wanted, None, 20, LISTED_ACTIVE, LISTED_ENDED)
        if statement is None:
            assert not wanted.states
            continue
        async with database.tenant(TENANT) as connection:
            answer = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.text}", *statement.arguments)
        looked = scanned(json.loads(answer)[0]["Plan"])
        # Ties of one finish_time are looked at together; here a day's tasks have the same.
        assert by_finish or looked < 700, (text, looked, answer)


async def test_a_filter_over_the_wire_and_what_is_refused(scheduler: Scheduler) -> None:
    made: dict[int, Any] = {priority: await scheduler.create(str(priority), priority=priority) for priority in (3, 6, 9)}
    async with scheduler.worker(credits=2) as worker:
        for _ in range(2):
            await worker.complete(await worker.lease())

    async def listed(**fields: Any) -> list[str]:
        response = await scheduler.stub.ListTasks(pb.ListTasksRequest(**fields), metadata=metadata(scheduler.ada))
        return [task.task_id for task in response.tasks]

    ids = {priority: task.task_id for priority, task in made.items()}
    assert await listed() == [ids[9], ids[6], ids[3]]
    assert await listed(order_by="create_time") == [ids[3], ids[6], ids[9]]
    assert await listed(order_by="finish_time desc") == [ids[6], ids[9]]
    assert await listed(filter="priority < 9 AND state != PENDING") == [ids[6]]
    assert await listed(filter="priority < 9", state=3) == [ids[6]]
    assert await listed(queue="default", filter=f'kind = "{scheduler.kind}" AND state = PENDING') == [ids[3]]
    for fields, reason in (({"filter": "colour = red"}, "INVALID_FILTER"), ({"order_by": "priority"}, "INVALID_ORDER_BY")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await listed(**fields)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert reason in str(refused.value.trailing_metadata())
    first = await scheduler.stub.ListTasks(pb.ListTasksRequest(page_size=1), metadata=metadata(scheduler.ada))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await listed(page_size=1, page_token=first.next_page_token, filter="priority > 1")
    assert "INVALID_PAGE_TOKEN" in str(refused.value.trailing_metadata())


async def test_the_command_lists_by_filter_and_order(
    scheduler: Scheduler, scheduler_tls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [await scheduler.create(f"number {number}", priority=number) for number in (2, 5, 8)]

    @contextmanager
    def connect() -> Iterator[Connection]:
        key, chain, roots = ((scheduler_tls / "gateway" / name).read_bytes() for name in ("tls.key", "tls.crt", "ca.crt"))
        credentials = grpc.ssl_channel_credentials(roots, key, chain)
        with grpc.secure_channel(scheduler.server.target, credentials) as channel:
            yield Connection(channel, metadata(scheduler.ada))

    monkeypatch.setattr(tasks_command, "connect", connect)

    async def listed(*options: str) -> list[str]:
        done = await asyncio.to_thread(CliRunner().invoke, tasks_command.app, ["list", "--json", *options])
        assert done.exit_code == 0, done.output
        # The scheduler of this process logs to the same place.
        return re.findall(r'"task_id": ?"([^"]+)"', done.output)

    ids = [task.task_id for task in made]
    assert await listed("--filter", "priority > 2", "--order-by", "create_time") == ids[1:]
    assert await listed("--state", "pending", "--queue", "default", "--filter", "priority < 8") == ids[1::-1]
    assert await listed("--order-by", "finish_time desc") == []


async def test_tasks_are_found_by_what_they_were_created_with(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    async def listed(filter: str) -> list[str]:
        return await _all(scheduler, filter)

    red = await scheduler.create("red", labels={"team": "red", "team of": "", "größe": "XL"}, concurrency_key="k")
    blue = await scheduler.create("blue", labels={"team": "blue", "x": "red"})
    # The bytes of the label, in a text.
    trap = await scheduler.create("team: \n\x04team\x12\x03red", labels={"trap": "Z\x0b\n\x04team\x12\x03red"})
    eve = await scheduler.create("eve's", by=Principal("eve", scheduler.ada.tenant_id, frozenset({"user"})))
    assert await listed("labels.team = red") == [red.task_id]
    for looked_at in (1, 2, 5000):
        monkeypatch.setattr(listing, "LOOKED_AT", looked_at)
        assert await listed("labels.team = red") == [red.task_id]
        assert await listed('labels."team of" = ""') == [red.task_id]
        assert await listed("labels.größe = XL AND labels.team = red") == [red.task_id]
        assert await listed("labels.team = blue AND labels.x = red AND created_by = ada") == [blue.task_id]
        assert await listed("labels.tea = red") == []
        assert await listed("labels.team = re") == []
        assert await listed("created_by = eve") == [eve.task_id]
        assert await listed("concurrency_key = k") == [red.task_id]
    async with scheduler.worker(credits=4) as worker:
        for _ in range(3):
            await worker.complete(await worker.lease())
        await worker.fail(await worker.lease(), retryable=False)
    assert await listed("labels.team = red AND state = COMPLETED") == [red.task_id]
    assert await listed("created_by = eve") == [eve.task_id]
    assert trap.task_id in await listed("created_by = ada")
    replays = letters_grpc.DeadLetterServiceStub(scheduler.channel)
    replay = await replays.ReplayTask(letters_pb.ReplayTaskRequest(task_id=eve.task_id), metadata=metadata(scheduler.ada))
    assert await listed(f"replay_of = {eve.task_id}") == [replay.task_id]
    run = await scheduler.create("a run's", labels={"guildmesh.schedule_id": "nightly"})
    assert await listed("schedule_id = nightly") == [run.task_id]


async def _all(scheduler: Scheduler, filter: str) -> list[str]:
    """The ids of all tasks of ada's tenant that meet a filter, page by page."""
    found: list[str] = []
    token = ""
    while True:
        request = pb.ListTasksRequest(filter=filter, page_token=token)
        page = await scheduler.stub.ListTasks(request, metadata=metadata(scheduler.ada))
        found += [task.task_id for task in page.tasks]
        token = page.next_page_token
        if not token:
            return found
