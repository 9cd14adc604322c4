"""A running scheduler with a migrated database, and a bare worker that speaks the protocol message by message."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb
from guildmesh.scheduler.v1 import worker_service_pb2_grpc as worker_grpc
from pydantic import SecretStr

from services.common.context import Principal
from services.common.db.migrations import migrate
from services.scheduler.bootstrap import open_service
from services.scheduler.settings import SchedulerSettings
from tests.support.service import TestServer, mesh_certificates, metadata, running

MakeSettings = Callable[..., SchedulerSettings]


def unique(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def scheduler_tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mesh_certificates(tmp_path_factory.mktemp("scheduler-tls"))


@pytest.fixture(scope="session")
def scheduler_settings(postgres_url: str, scheduler_tls: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeSettings:
    """Settings of a scheduler on free ports; its database is migrated. A lease lasts 2 s, so that tests are quick."""

    objects = tmp_path_factory.mktemp("objects").as_uri()

    def make(**changes: Any) -> SchedulerSettings:
        values: dict[str, Any] = {
            "database_url": SecretStr(postgres_url),
            "tls_dir": scheduler_tls / "scheduler",
            "port": 0,
            "admin_port": 0,
            "db_pool_size": 8,
            "drain_seconds": 0,
            "lease_seconds": 2.0,
            "heartbeat_seconds": 0.5,
            "sweep_seconds": 0.2,
            "object_store_url": objects,
            "sse_keep_alive_seconds": 0.3,
        }
        return SchedulerSettings(_env_file=None, **(values | changes))

    migrate(make(), package="services.scheduler.storage.migrations", schema="scheduler")
    return make


@dataclass
class Scheduler:
    """A running scheduler, called as the gateway does for a principal of a tenant of its own."""

    server: TestServer
    ada: Principal = field(default_factory=lambda: Principal("ada", unique("acme"), frozenset({"user"})))

    def __post_init__(self) -> None:
        self.channel = self.server.channel()
        self.stub: pb_grpc.SchedulerServiceAsyncStub = pb_grpc.SchedulerServiceStub(self.channel)
        # Every test has a kind of its own, so that no other test's worker takes its tasks.
        self.kind = unique("kind")

    async def create(self, description: str = "do it", by: Principal | None = None, **fields: Any) -> task_pb2.Task:
        request = {name: fields.pop(name) for name in ("request_id", "parent_attempt") if name in fields}
        task = task_pb2.Task(description=description, kind=fields.pop("kind", self.kind), **fields)
        call = pb.CreateTaskRequest(task=task, **request)
        return await self.stub.CreateTask(call, metadata=metadata(by or self.ada))

    async def get(self, task_id: str, by: Principal | None = None) -> task_pb2.Task:
        return await self.stub.GetTask(pb.GetTaskRequest(task_id=task_id), metadata=metadata(by or self.ada))

    async def cancel(self, task_id: str, cause: str = "", by: Principal | None = None) -> task_pb2.Task:
        request = pb.CancelTaskRequest(task_id=task_id, cause=cause)
        return await self.stub.CancelTask(request, metadata=metadata(by or self.ada))

    async def watch(self, task_id: str, after: int = 0, by: Principal | None = None) -> list[TaskEvent]:
        """All events of a task until it ends."""
        request = pb.WatchTaskRequest(task_id=task_id, after_event_number=after)
        async with asyncio.timeout(20):
            return [event async for event in self.stub.WatchTask(request, metadata=metadata(by or self.ada))]

    async def until_event(self, task_id: str, kind: str) -> TaskEvent:
        """Waits for an event of a task, such as "retried"."""
        call = self.stub.WatchTask(pb.WatchTaskRequest(task_id=task_id), metadata=metadata(self.ada))
        async with asyncio.timeout(20):
            async for event in call:
                if event.WhichOneof("change") == kind:
                    call.cancel()
                    return event
        raise AssertionError(f"the task ended without {kind}")

    @contextlib.asynccontextmanager
    async def worker(self, credits: int = 10, **hello: Any) -> AsyncIterator[BareWorker]:
        """A worker of ada's tenant for this test's kind."""
        worker = BareWorker(self.channel, metadata(self.ada))
        try:
            await worker.hello(credits, **({"kinds": [self.kind], "worker_id": unique("worker")} | hello))
            yield worker
        finally:
            worker.call.cancel()


class BareWorker:
    """One Work stream."""

    def __init__(self, channel: Any, with_metadata: Any) -> None:
        # A channel that was just made may still be shaking hands.
        self.call = worker_grpc.WorkerServiceStub(channel).Work(metadata=with_metadata, wait_for_ready=True)
        self._leases: list[worker_pb.TaskLease] = []

    async def hello(self, credits: int, **hello: Any) -> None:
        await self.send(hello=worker_pb.WorkerHello(**hello), credits=credits)
        response = await self.read()
        assert response.HasField("welcome")
        self._leases += response.leases

    async def send(self, **parts: Any) -> None:
        await self.call.write(worker_pb.WorkRequest(**parts))

    async def read(self) -> worker_pb.WorkResponse:
        async with asyncio.timeout(10):
            response = await self.call.read()
        assert isinstance(response, worker_pb.WorkResponse), "the stream ended"
        return response

    async def lease(self) -> worker_pb.TaskLease:
        """Waits for the next lease."""
        while not self._leases:
            self._leases += (await self.read()).leases
        return self._leases.pop(0)

    async def answer(self, part: str) -> Any:
        """Waits for a message with `part`, such as "acks"; gives its first entry."""
        while True:
            response = await self.read()
            self._leases += response.leases
            if getattr(response, part):
                return getattr(response, part)[0]

    async def complete(self, lease: worker_pb.TaskLease, result: Any = "done") -> Any:
        """Completes and waits for the acknowledgement."""
        await self.send(completions=[completion(lease.task.task_id, lease.task.attempt, result)])
        return await self.answer("acks")

    async def fail(self, lease: worker_pb.TaskLease, reason: str = "BROKEN", *, retryable: bool) -> Any:
        error = task_pb2.TaskError(reason=reason, message="it broke")
        failure = worker_pb.TaskFailure(task_id=lease.task.task_id, attempt=lease.task.attempt, error=error, retryable=retryable)
        await self.send(failures=[failure])
        return await self.answer("acks")


def completion(task_id: str, attempt: int, result: Any = "done") -> worker_pb.TaskCompletion:
    return worker_pb.TaskCompletion(task_id=task_id, attempt=attempt, result=value(result))


def value(item: Any) -> Value:
    return json_format.ParseDict(item, Value())


@pytest.fixture
async def scheduler(scheduler_settings: MakeSettings, scheduler_tls: Path) -> AsyncIterator[Scheduler]:
    async with running(open_service, scheduler_settings(), scheduler_tls) as server:
        yield Scheduler(server)
