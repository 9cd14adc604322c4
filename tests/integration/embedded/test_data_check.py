"""`guildmesh doctor --data`: nothing is wrong with what the scheduler wrote, and each harm done to its tables is found."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from guildmesh.events.v1.task_event_pb2 import TaskToolCalled
from guildmesh.scheduler.v1 import (
    event_log_service_pb2,
    event_log_service_pb2_grpc,
    schedule_pb2,
    schedule_service_pb2,
    schedule_service_pb2_grpc,
    task_pb2,
)
from guildmesh.scheduler.v1.worker_service_pb2 import TaskCompletion
from pydantic import SecretStr
from typer.testing import CliRunner

from services.common.db.migrations import migrate
from services.embedded.commands import app
from services.embedded.data_check import DataFinding, check_data, check_tables, payloads
from services.embedded.errors import MeshError
from services.scheduler.bootstrap import open_service
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, scheduler_settings, scheduler_tls, value
from tests.integration.scheduler.test_payloads import Uploads
from tests.support.service import TestServer, metadata, running

__all__ = ["scheduler_settings", "scheduler_tls"]

CHECKS = {
    *("tasks", "event numbers", "histories", "leases", "request ids", "step journals", "subtasks", "long logs"),
    "events of other services",
    *("outbox", "dead letters", "schedules", "relay lanes", "dependencies", "payloads", "payload bodies", "webhooks"),
}
WAITING_WEBHOOK = """
SET search_path TO scheduler;
INSERT INTO webhooks (create_time, update_time, uid, tenant_id, webhook_id, url, filter, description, created_by, secret)
VALUES (now(), now(), gen_random_uuid(), 'acme', 'hook', 'https://example.com', '', '', 'ada', 'x');
INSERT INTO webhook_deliveries (tenant_id, uid, task_id, number, lane, event)
SELECT 'acme', uid, gen_random_uuid(), 1, 0, 'x' FROM webhooks;
INSERT INTO webhook_lines (tenant_id, uid, task_id, lane, next_time)
SELECT tenant_id, uid, task_id, lane, now() FROM webhook_deliveries;
INSERT INTO webhook_backlogs (tenant_id, uid, lane, start_time) SELECT tenant_id, uid, lane, now() FROM webhooks, webhook_lanes
"""


@pytest.fixture
async def url(scheduler_settings: MakeSettings, scheduler_tls: Path, empty_database_url: str, tmp_path: Path) -> str:
    """A database with a task of each sort: completed, with a long log, failed, waiting, running with a step, with a subtask."""
    objects = (tmp_path / "objects").as_uri()
    settings = scheduler_settings(database_url=SecretStr(empty_database_url), lease_seconds=600.0, object_store_url=objects)
    migrate(settings, package="services.scheduler.storage.migrations", schema="scheduler")
    async with running(open_service, settings, scheduler_tls) as server:
        scheduler = Scheduler(server)
        uploads = Uploads(scheduler, tmp_path / "objects")
        given, made, planned = [(await uploads.up(body)).payload_id for body in (b"{}", b'"done"', b'{"year": 2026}')]
        async with scheduler.worker(credits=4) as worker:
            for number in range(3):
                await scheduler.create(f"task {number}", request_id=f"request-{number}", context_payload=given)
            first, second, third = [await worker.lease() for _ in range(3)]
            for lease, steps in ((first, 8), (third, 1)):
                for step in range(steps):
                    item = {"task_id": lease.task.task_id, "attempt": 1, "step_id": f"step {step}", "result": value("x" * 1000)}
                    await worker.send(steps=[item])
                    await worker.answer("acks")
            done = TaskCompletion(task_id=first.task.task_id, attempt=1, result_payload=made)
            await worker.send(completions=[done])
            await worker.answer("acks")
            await worker.fail(second, retryable=False)
            await call_a_tool(server, scheduler.ada.tenant_id, third.task.task_id)
            await scheduler.create("child", kind="nobody", parent_task_id=third.task.task_id)
            other = await scheduler.create("waiting", kind="nobody")
            both = [task_pb2.TaskDependency(task_id=each) for each in (first.task.task_id, other.task_id)]
            await scheduler.create("blocked", kind="nobody", dependencies=both)
            await scheduler.create("unblocked", kind="nobody", dependencies=both[:1])
            await schedule(scheduler, "yearly", paused=False, context_payload=planned)
            await schedule(scheduler, "paused", paused=True)
            # The same once more: a repeat is acknowledged and changes nothing.
            await worker.send(completions=[done])
            await worker.answer("acks")
    wait_for_a_webhook(empty_database_url)
    return empty_database_url


def wait_for_a_webhook(url: str) -> None:
    """An event that waits, as the webhook process keeps it."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
        cursor.execute(WAITING_WEBHOOK)


async def call_a_tool(server: TestServer, tenant_id: str, task_id: str) -> None:
    event = event_log_service_pb2.AppendedEvent(
        tenant_id=tenant_id, task_id=task_id, attempt=1, source_id="x/1/called", actor="ada", tool_called=TaskToolCalled()
    )
    stub: Any = event_log_service_pb2_grpc.EventLogServiceStub(server.channel("tool"))
    answers = (await stub.AppendEvents(event_log_service_pb2.AppendEventsRequest(events=[event]))).answers
    assert answers[0].number > 0


async def schedule(scheduler: Scheduler, schedule_id: str, *, paused: bool, context_payload: str = "") -> None:
    task = task_pb2.Task(description="x", context_payload=context_payload)
    wanted = schedule_pb2.Schedule(cron="@yearly", task=task, paused=paused)
    request = schedule_service_pb2.CreateScheduleRequest(schedule=wanted, schedule_id=schedule_id)
    stub: Any = schedule_service_pb2_grpc.ScheduleServiceStub(scheduler.channel)
    await stub.CreateSchedule(request, metadata=metadata(scheduler.ada))


def harmed(url: str, statement: str) -> dict[str, DataFinding]:
    """What is found in a transaction that did harm, and is rolled back."""
    with closing(psycopg2.connect(url)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL ROLE scheduler_engine")
            cursor.execute("SET LOCAL search_path TO scheduler")
            cursor.execute(statement)
            assert cursor.rowcount != 0, "nothing was harmed"
        return {finding.about: finding for finding in check_tables(connection)}


@pytest.fixture
def command(url: str, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Runs `guildmesh doctor --data` on the database."""
    before = dict(os.environ)
    os.environ.update({"DATABASE_URL": url, "GUILDMESH_STATE_DIR": str(tmp_path)})
    try:
        yield lambda: CliRunner().invoke(app, ["doctor", "--data"])
    finally:
        os.environ.clear()
        os.environ.update(before)


# What harm is done, in which check it shows, and a word of what is said.
HARMS = {
    "a log lost its end": ("event numbers", "UPDATE tasks SET log = ''", "should have the events"),
    "a log cannot be read": ("histories", r"UPDATE tasks SET log = '\x00000002ffff'", "cannot be read"),
    "an event of a long log is gone": ("event numbers", "DELETE FROM task_events WHERE number = 9", "should have the events"),
    "a number is ahead": (
        "event numbers",
        "UPDATE tasks SET next_event_number = next_event_number + 1",
        "should have the events",
    ),
    "an event has no task": (
        "long logs",
        "INSERT INTO task_events SELECT tenant_id, gen_random_uuid(), number, value FROM task_events LIMIT 1",
        "belong to no task",
    ),
    "a state does not follow from the log": ("histories", "UPDATE finished_tasks SET state = 5 WHERE state = 3", "is cancelled"),
    "a task was not told of the end of what it depends on": (
        "dependencies",
        "UPDATE task_dependencies SET upstream_state = NULL WHERE upstream_state IS NOT NULL",
        "has ended, and the task was not told",
    ),
    "a dependency was forgotten": (
        "dependencies",
        "DELETE FROM task_dependencies WHERE upstream_state IS NULL",
        "is blocked by 1, and 0 of its dependencies",
    ),
    "a dependency does not know of its dependant": (
        "dependencies",
        "UPDATE tasks SET has_dependants = false WHERE has_dependants",
        "the dependency does not know of it",
    ),
    "a task is blocked by nothing": (
        "dependencies",
        "UPDATE tasks SET state = 8 WHERE blocked_by = 0",
        "is blocked by 0",
    ),
    "a dependency belongs to no task": (
        "dependencies",
        "UPDATE task_dependencies SET task_id = gen_random_uuid()",
        "has ended or is not there",
    ),
    "a blocked task waits by its log only": ("histories", "UPDATE tasks SET state = 1 WHERE state = 8", "waits for something"),
    "an attempt does not follow from the log": ("histories", "UPDATE tasks SET attempt = attempt + 1", "its log at"),
    "a result is another": ("histories", r"UPDATE finished_tasks SET result = '\x2001' WHERE state = 3", "its result is not"),
    "a task is in both tables": (
        "tasks",
        """INSERT INTO finished_tasks (tenant_id, task_id, create_time, finish_time, state, attempt, next_event_number,
             log_events, progress, queue, kind, traceparent, spec, log)
           SELECT tenant_id, task_id, create_time, now(), 3, 1, next_event_number, log_events, 1, queue, kind, '', spec, log
           FROM tasks""",
        "both ended and not",
    ),
    "a state is in the wrong table": ("tasks", "UPDATE tasks SET state = 4", "wrong table"),
    "a lease ended long ago": (
        "leases",
        "UPDATE tasks SET lease_expires = now() - interval '1 hour' WHERE state = 2",
        "no scheduler sweeps",
    ),
    "who runs has no lease": ("leases", "UPDATE tasks SET lease_expires = NULL WHERE state = 2", "runs without"),
    "who waits has a lease": ("leases", "UPDATE tasks SET lease_expires = now() WHERE state = 1", "waits, and has a lease"),
    "a request leads nowhere": ("request ids", "UPDATE task_requests SET task_id = gen_random_uuid()", "is not there"),
    "two requests lead to one task": (
        "request ids",
        "UPDATE task_requests SET task_id = (SELECT min(task_id::text)::uuid FROM task_requests)",
        "3 requests lead to it",
    ),
    "a journal belongs to nobody": ("step journals", "UPDATE task_steps SET task_id = gen_random_uuid()", "does not fit"),
    "a journal is ahead of its task": ("step journals", "UPDATE task_steps SET attempt = 9", "attempt 9 wrote it"),
    "an event of a tool belongs to nobody": (
        "events of other services",
        "UPDATE appended_events SET task_id = gen_random_uuid()",
        "is not there",
    ),
    "an event of a tool is ahead of its task": ("events of other services", "UPDATE appended_events SET number = 99", "not know"),
    "a subtask outlives its parent": (
        "subtasks",
        "UPDATE tasks SET parent_task_id = (SELECT task_id FROM finished_tasks LIMIT 1) WHERE parent_task_id IS NOT NULL",
        "its parent has ended",
    ),
    "a parent does not know of its child": ("subtasks", "UPDATE tasks SET has_children = false", "does not know"),
    "a row of the outbox is short": ("outbox", "UPDATE outbox SET events = events + 1", "should hold"),
    "a row of the outbox cannot be read": ("outbox", r"UPDATE outbox SET payload = '\x01'", "cannot be read"),
    "an event of the outbox has no state": (
        "outbox",
        r"""UPDATE outbox SET payload = overlay(
              substring(payload for octet_length(payload) - get_byte(payload, 8) * 256 - get_byte(payload, 9))
              placing '\x00000000' from 7 for 4)
            WHERE events = 1""",
        "waits without a state",
    ),
    "a row of the outbox is in another lane": ("outbox", "UPDATE outbox SET lane = (lane + 1) % 4", "belongs to shard"),
    "the outbox is not in order": (
        "outbox",
        """WITH gone AS (DELETE FROM outbox RETURNING *)
           INSERT INTO outbox (lane, tenant_id, events, payload)
           SELECT lane, tenant_id, events, payload FROM gone ORDER BY position DESC""",
        "waits behind",
    ),
    "a failed task has no dead letter": ("dead letters", "DELETE FROM dead_letters", "has no dead letter"),
    "a dead letter has no task": ("dead letters", "UPDATE dead_letters SET task_id = gen_random_uuid()", "is not there"),
    "a dead letter did not fail": (
        "dead letters",
        "UPDATE dead_letters SET task_id = (SELECT task_id FROM finished_tasks WHERE state = 3)",
        "did not fail",
    ),
    "a dead letter would leave with others": ("dead letters", "UPDATE dead_letters SET retention_days = 1", "other days"),
    "a replay is half told": ("dead letters", "UPDATE dead_letters SET replay_time = now()", "not as what"),
    "a paused schedule has something to do": (
        "schedules",
        "UPDATE schedules SET next_time = now(), wake_time = now() WHERE paused",
        "is paused, and has a run",
    ),
    "nobody looks at a schedule": ("schedules", "UPDATE schedules SET wake_time = NULL WHERE NOT paused", "nobody will look"),
    "a schedule is looked at too early": (
        "schedules",
        "UPDATE schedules SET wake_time = next_time - interval '1 s' WHERE NOT paused",
        "before its time",
    ),
    "a payload that a task uses is taken away": (
        "payloads",
        "UPDATE payloads SET state = 3 WHERE payload_id IN (SELECT payload_id FROM task_payloads)",
        "is used, and its state is DELETING",
    ),
    "a payload that a schedule uses is taken away": (
        "payloads",
        "UPDATE payloads SET state = 3 WHERE payload_id IN (SELECT context_payload FROM schedules)",
        "is used, and its state is DELETING",
    ),
    "nobody knows who uses a context": ("payloads", "DELETE FROM task_payloads WHERE use = 1", "its context is the payload"),
    "nobody knows who uses a result": ("payloads", "DELETE FROM task_payloads WHERE use = 2", "its result is the payload"),
    "an event waits for ever": ("webhooks", "DELETE FROM webhook_lines", "nobody will deliver"),
    "nothing is in line": ("webhooks", "DELETE FROM webhook_deliveries", "nothing to deliver"),
    "a webhook is nowhere": ("webhooks", "DELETE FROM webhook_backlogs WHERE lane = 2", "the lane 2 is not known"),
    "there are no lanes": ("relay lanes", "DELETE FROM relay_lanes", "no lanes"),
}


async def test_it_finds_nothing_in_a_sound_database_and_each_harm_by_its_task(url: str, command: Callable[[], Any]) -> None:
    good = await asyncio.to_thread(command)
    assert good.exit_code == 0, good.output
    assert {line.split(": ")[0][6:] for line in good.output.splitlines()} == CHECKS
    assert "note  tasks: 7 rows; 5 have not ended" in good.output
    assert "note  webhooks: 1 row; webhooks whose secrets are plain: 1" in good.output
    assert "ok    request ids: 3 rows" in good.output
    assert all(finding.rows for finding in check_data(url)), "a check looked at nothing"
    for name, (about, statement, word) in HARMS.items():
        found = harmed(url, statement)
        assert found[about].wrong, name
        assert word in " ".join(found[about].problems), (name, found[about].problems)
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
        cursor.execute("UPDATE scheduler.payloads SET check_time = now() - interval '1 hour'")
    assert "note  payloads: 3 rows; 3 are over 60 s late to be looked at" in (await asyncio.to_thread(command)).output
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
        cursor.execute("UPDATE scheduler.finished_tasks SET state = 5 WHERE state = 3")
    bad = await asyncio.to_thread(command)
    assert bad.exit_code == 1
    assert "bad   histories: " in bad.output


async def test_it_finds_each_body_that_is_lost_cut_or_strange(
    url: str, command: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> list[str]:
        answer = command()
        lines = [line for line in answer.output.splitlines() if "payload bodies" in line]
        assert (answer.exit_code == 1) == any(line.startswith("bad") for line in lines), answer.output
        return lines

    assert await asyncio.to_thread(told) == ["ok    payload bodies: 3 rows"]
    [lost, cut, _] = sorted(path for path in (tmp_path / "objects").rglob("*") if path.is_file())
    kept = lost.read_bytes()
    lost.unlink()
    cut.write_bytes(b"x" * 100)
    stray = cut.with_name("01990000-0000-7000-8000-000000000000")
    other = tmp_path / "objects" / "payloads" / "zz" / "y"
    other.parent.mkdir()
    for each in (stray, other):
        each.write_text("x")
    text = "\n".join(await asyncio.to_thread(told))
    assert f"{lost.name}: the body of this payload" in text
    assert f"{cut.name}: the body of this payload of" in text
    assert "has 100 bytes in file://" in text
    # What is so young may be on its way.
    assert stray.name not in text
    for each in (stray, other):
        os.utime(each, (0, 0))
    text = "\n".join(await asyncio.to_thread(told))
    assert text.count("no payload is known of this object") == 2
    monkeypatch.setattr(payloads, "LOOKED_AT", 1)
    assert any(
        "only the newest 1 were looked at; only 1 objects were looked at" in line for line in await asyncio.to_thread(told)
    )
    monkeypatch.undo()
    lost.write_bytes(kept)
    shutil.rmtree(tmp_path / "objects")
    text = "\n".join(await asyncio.to_thread(told))
    assert text.count("is not in file://") == 3
    os.environ["OBJECT_STORE_URL"] = "ftp://x"
    assert "The object store cannot be opened; see OBJECT_STORE_URL" in (await asyncio.to_thread(command)).output


def test_a_database_without_the_tables_is_said_so(empty_database_url: str) -> None:
    with pytest.raises(MeshError, match="cannot be read"):
        check_data(empty_database_url)
    with pytest.raises(MeshError, match="does not answer"):
        check_data("postgresql://nobody@127.0.0.1:1/nothing")
