"""A scheduler with a database for the tests here, called for its queues and dead letters, and what is in its tables."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psycopg2
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from guildmesh.scheduler.v1 import dead_letter_pb2, queue_pb2, task_pb2
from guildmesh.scheduler.v1 import dead_letter_service_pb2 as letters_pb
from guildmesh.scheduler.v1 import dead_letter_service_pb2_grpc as letters_grpc
from guildmesh.scheduler.v1 import queue_service_pb2 as pb
from guildmesh.scheduler.v1 import queue_service_pb2_grpc as pb_grpc
from pydantic import SecretStr

from services.common.context import Principal
from services.common.db.migrations import migrate
from services.common.grpcx.status import error_info
from services.embedded.data_check import check_data
from services.embedded.parts.postgres import Postgres
from services.embedded.running import RunningPart
from services.scheduler.bootstrap import open_service
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
from tests.support.service import metadata, running


@dataclass
class Tables:
    """The tables of a scheduler."""

    url: str

    def query(self, statement: str, *arguments: object, role: str = "scheduler_engine") -> list[Any]:
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(f"SET ROLE {role}; SET search_path = scheduler")
            cursor.execute(statement, arguments)
            return list(cursor.fetchall()) if cursor.description else []

    def one(self, statement: str, *arguments: object) -> Any:
        [(value,)] = self.query(statement, *arguments)
        return value

    def sound(self) -> None:
        """What is left fits together."""
        assert [text for finding in check_data(self.url) for text in finding.problems] == []


@dataclass
class Client:
    """Calls the services of queues and dead letters as the gateway does, for an administrator of ada's tenant unless said."""

    scheduler: Scheduler
    ada: Principal = field(init=False)

    def __post_init__(self) -> None:
        self.queues: Any = pb_grpc.QueueServiceStub(self.scheduler.channel)
        self.letters: Any = letters_grpc.DeadLetterServiceStub(self.scheduler.channel)
        self.user = self.scheduler.ada
        self.ada = Principal("ada", self.user.tenant_id, frozenset({"admin"}))
        self.operator = Principal("olga", unique("ops"), frozenset({"operator"}))

    async def create(self, name: str, by: Principal | None = None, *, shared: bool = False, **fields: Any) -> queue_pb2.Queue:
        request = pb.CreateQueueRequest(queue=queue_pb2.Queue(queue=name, **fields), shared=shared)
        created: queue_pb2.Queue = await self.queues.CreateQueue(request, metadata=metadata(by or self.ada))
        return created

    async def get(self, name: str, by: Principal | None = None, *, shared: bool = False) -> queue_pb2.Queue:
        request = pb.GetQueueRequest(queue=name, shared=shared)
        found: queue_pb2.Queue = await self.queues.GetQueue(request, metadata=metadata(by or self.ada))
        return found

    async def update(
        self, name: str, *mask: str, by: Principal | None = None, shared: bool = False, **fields: Any
    ) -> queue_pb2.Queue:
        request = pb.UpdateQueueRequest(
            queue=queue_pb2.Queue(queue=name, **fields), update_mask=FieldMask(paths=mask), shared=shared
        )
        changed: queue_pb2.Queue = await self.queues.UpdateQueue(request, metadata=metadata(by or self.ada))
        return changed

    async def delete(self, name: str, etag: str = "", by: Principal | None = None, *, shared: bool = False) -> None:
        request = pb.DeleteQueueRequest(queue=name, etag=etag, shared=shared)
        await self.queues.DeleteQueue(request, metadata=metadata(by or self.ada))

    async def fail(self, number: int, queue: str = "default", reason: str = "BROKEN", **fields: Any) -> list[str]:
        """Creates tasks and has a worker fail each for good; gives their ids in the order in which they failed."""
        failed = []
        async with self.scheduler.worker() as worker:
            for place in range(number):
                await self.scheduler.create(**({"description": f"task {place}", "queue": queue} | fields))
                lease = await worker.lease()
                await worker.fail(lease, reason, retryable=False)
                failed.append(lease.task.task_id)
        return failed

    async def listed(
        self, queue: str = "default", filter: str = "", page_size: int = 200, by: Principal | None = None
    ) -> list[dead_letter_pb2.DeadLetter]:
        """All dead letters of a queue, page by page."""
        found: list[dead_letter_pb2.DeadLetter] = []
        token = ""
        while True:
            request = letters_pb.ListDeadLettersRequest(queue=queue, filter=filter, page_size=page_size, page_token=token)
            page = await self.letters.ListDeadLetters(request, metadata=metadata(by or self.user))
            assert len(page.dead_letters) <= page_size
            found += page.dead_letters
            token = page.next_page_token
            if not token:
                return found

    async def replay(self, task_id: str, by: Principal | None = None, **fields: Any) -> task_pb2.Task:
        request = letters_pb.ReplayTaskRequest(task_id=task_id, **fields)
        replay: task_pb2.Task = await self.letters.ReplayTask(request, metadata=metadata(by or self.user))
        return replay

    async def replay_many(self, queue: str = "default", **fields: Any) -> letters_pb.ReplayDeadLettersResponse:
        request = letters_pb.ReplayDeadLettersRequest(queue=queue, **fields)
        done: letters_pb.ReplayDeadLettersResponse = await self.letters.ReplayDeadLetters(request, metadata=metadata(self.user))
        return done


@pytest.fixture(scope="module")
def own_settings(scheduler_settings: MakeSettings, postgres_server: RunningPart) -> MakeSettings:
    """Settings of a scheduler with a database for the tests of a module: shared queues are changed here."""
    assert isinstance(postgres_server.part, Postgres)
    url = SecretStr(postgres_server.part.create_database(unique("queues").replace("-", "_")))

    def make(**changes: Any) -> Any:
        return scheduler_settings(database_url=url, **changes)

    migrate(make(), package="services.scheduler.storage.migrations", schema="scheduler")
    return make


@pytest.fixture
def tables(own_settings: MakeSettings) -> Tables:
    return Tables(own_settings().database_url.get_secret_value())


@pytest.fixture
async def client(own_settings: MakeSettings, scheduler_tls: Path) -> AsyncIterator[Client]:
    async with running(open_service, own_settings(), scheduler_tls) as server:
        yield Client(Scheduler(server))


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error_info(error.value)[0]


def ids(letters: Sequence[dead_letter_pb2.DeadLetter]) -> list[str]:
    return [letter.task_id for letter in letters]
