"""A scheduler that dies again and again while it replays: each dead letter is replayed once, and none is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from guildmesh.scheduler.v1 import dead_letter_service_pb2 as letters_pb
from guildmesh.scheduler.v1 import dead_letter_service_pb2_grpc as letters_grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2 as tasks_pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as tasks_grpc
from guildmesh.scheduler.v1 import task_pb2

from services.common.context import Principal
from services.common.failpoints import CRASH_STATUS
from services.common.grpcx.channel import secure_channel
from services.embedded.ports import free_port
from tests.integration.scheduler.conftest import MakeSettings, unique
from tests.integration.scheduler.processes import Process
from tests.integration.scheduler.queues.conftest import Tables
from tests.support.service import metadata
from tests.support.waiting import eventually

NUMBER, A_CALL = 5000, 700
ADA = Principal("ada", unique("acme"), frozenset({"user"}))
RULES = ("scheduler.replay.before_commit=crash@2", "scheduler.replay.after_commit=crash@2")


class Scheduler:
    """A scheduler process that crashes at a place, another one in each life, and the channel to it."""

    def __init__(self, process: Process, rules: Path, channel: grpc.aio.Channel) -> None:
        self.process = process
        self.channel = channel
        self.lives = 0
        self._rules = rules

    async def start(self, rule: str = "") -> None:
        self._rules.write_text(rule)
        await self.process.start()
        self.lives += 1

    async def start_again(self) -> None:
        """Starts it when it has died, at the place that was meant."""
        try:
            async with asyncio.timeout(0.5):
                status = await self.process.ended()
        except TimeoutError:
            # The connection was the one to its last life.
            return
        assert status == CRASH_STATUS, self.process.tail()
        await self.start(RULES[self.lives % 2])


@pytest.fixture
async def scheduler(own_settings: MakeSettings, scheduler_tls: Path, tmp_path: Path) -> AsyncIterator[Scheduler]:
    settings, port, rules = own_settings(), free_port(), tmp_path / "rules"
    environment = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "DB_POOL_SIZE": "8",
        "GUILDMESH_TLS_DIR": str(settings.tls_dir),
        "GUILDMESH_ADMIN_PORT": "0",
        "GUILDMESH_DRAIN_SECONDS": "1",
        "GUILDMESH_SWEEP_SECONDS": "0.2",
        "GUILDMESH_PORT": str(port),
        "GUILDMESH_FAILPOINTS_FILE": str(rules),
    }
    process = Process("services.scheduler", environment, tmp_path / "scheduler.log")
    async with secure_channel(f"localhost:{port}", "scheduler", scheduler_tls / "gateway") as channel:
        scheduler = Scheduler(process, rules, channel)
        await scheduler.start()
        try:
            yield scheduler
        finally:
            rules.write_text("")
            await process.stop()


async def fail_many(scheduler: Scheduler, tables: Tables) -> set[str]:
    """Has the sweeper fail tasks that nobody starts in time."""
    stub: Any = tasks_grpc.SchedulerServiceStub(scheduler.channel)
    made: set[str] = set()
    while len(made) < NUMBER:
        task = task_pb2.Task(description="x", kind=unique("nobody"), start_timeout=Duration(seconds=1))
        task.context.update({"n": len(made)})
        call = tasks_pb.BatchCreateTasksRequest(requests=[tasks_pb.CreateTaskRequest(task=task)] * min(1000, NUMBER - len(made)))
        answer = await stub.BatchCreateTasks(call, metadata=metadata(ADA), wait_for_ready=True, timeout=30)
        made |= {result.task_id for result in answer.results}
    count = "SELECT count(*) FROM dead_letters WHERE tenant_id = %s"
    await asyncio.to_thread(eventually, lambda: tables.one(count, ADA.tenant_id) == NUMBER, 60)
    return made


async def test_five_thousand_are_replayed_each_once_though_the_scheduler_dies_in_between(
    scheduler: Scheduler, tables: Tables
) -> None:
    failed = await fail_many(scheduler, tables)
    await scheduler.process.kill()
    await scheduler.start(RULES[1])
    letters: Any = letters_grpc.DeadLetterServiceStub(scheduler.channel)
    told: dict[str, str] = {}
    left = NUMBER
    # The replays fail like the tasks that they repeat, and are dead letters of their own.
    latest = tables.one("SELECT max(fail_time) FROM dead_letters WHERE tenant_id = %s", ADA.tenant_id)
    filter = f'fail_time <= "{latest.isoformat()}"'
    while left:
        request = letters_pb.ReplayDeadLettersRequest(queue="default", filter=filter, limit=A_CALL)
        try:
            done = await letters.ReplayDeadLetters(request, metadata=metadata(ADA), wait_for_ready=True, timeout=30)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            await scheduler.start_again()
            continue
        assert not told.keys() & {replay.task_id for replay in done.replays}, "told twice"
        told |= {replay.task_id: replay.replay_task_id for replay in done.replays}
        left = done.left
    assert scheduler.lives >= 5
    letters_kept = "SELECT task_id::text, replay_task_id::text FROM dead_letters WHERE tenant_id = %s AND fail_time <= %s"
    kept = dict(tables.query(letters_kept, ADA.tenant_id, latest))
    assert kept.keys() == failed
    assert told.items() <= kept.items()
    assert len(told) < NUMBER, "no answer was lost"
    tasks = "SELECT task_id::text, spec FROM tasks UNION ALL SELECT task_id::text, spec FROM finished_tasks"
    origins = {task_id: task_pb2.Task.FromString(bytes(spec)).replay_of for task_id, spec in tables.query(tasks)}
    made = {origin: task_id for task_id, origin in origins.items() if origin}
    assert made == kept
    assert len(origins) == 2 * NUMBER, "more replays than dead letters"
    tables.sound()
