"""A user is erased: here at once, and at the scheduler however often it must be told, and whoever dies in between."""

from __future__ import annotations

import asyncio
import base64
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from guildmesh.events.v1.task_event_pb2 import EVENT_CONTENT_ENCRYPTED
from guildmesh.identity.v1 import identity_service_pb2 as pb
from guildmesh.identity.v1 import identity_service_pb2_grpc as pb_grpc
from guildmesh.identity.v1 import user_pb2
from guildmesh.scheduler.v1 import queue_pb2, task_pb2
from guildmesh.scheduler.v1 import queue_service_pb2 as queues_pb
from guildmesh.scheduler.v1 import queue_service_pb2_grpc as queues_grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2 as tasks_pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as tasks_grpc
from pydantic import SecretStr

from services.common.context import Principal
from services.common.db.migrations import migrate
from services.common.grpcx.status import error_info
from services.embedded.ports import free_port
from services.identity.bootstrap import open_service
from services.identity.settings import ServingSettings
from services.scheduler.bootstrap import open_service as open_scheduler
from services.scheduler.settings import SchedulerSettings
from tests.integration.identity.conftest import OPERATOR, Identity
from tests.support.service import TestServer, metadata, running

MakeSettings = Callable[..., ServingSettings]


@pytest.fixture(scope="module")
def scheduler_settings(postgres_url: str, identity_tls: Path) -> SchedulerSettings:
    values: dict[str, Any] = {
        "database_url": SecretStr(postgres_url),
        "tls_dir": identity_tls / "scheduler",
        "port": free_port(),
        "admin_port": 0,
        "db_pool_size": 8,
        "drain_seconds": 0,
        "event_master_key": SecretStr(base64.b64encode(os.urandom(32)).decode()),
        "kafka_bootstrap_servers": "127.0.0.1:1",
    }
    settings = SchedulerSettings(_env_file=None, **values)
    migrate(settings, package="services.scheduler.storage.migrations", schema="scheduler")
    return settings


@asynccontextmanager
async def identity_of(settings: ServingSettings, tls: Path) -> AsyncIterator[Identity]:
    async with running(open_service, settings, tls) as server:
        yield Identity(server, pb_grpc.IdentityServiceStub(server.channel()))


async def a_user(identity: Identity, admin: Principal, **fields: Any) -> Principal:
    name = f"u{uuid.uuid4().hex[:12]}"
    request = pb.CreateUserRequest(username=name, password="pw", email="ada@example.com", **fields)
    await identity.stub.CreateUser(request, metadata=metadata(admin))
    return Principal(name, admin.tenant_id, frozenset({"user"}))


async def erase(identity: Identity, user: Principal, by: Principal, tenant_id: str = "") -> user_pb2.User:
    request = pb.EraseUserRequest(username=user.subject, tenant_id=tenant_id)
    return await identity.stub.EraseUser(request, metadata=metadata(by))


async def encrypted_task(scheduler: TestServer, admin: Principal, user: Principal) -> task_pb2.Task:
    """A task of the user in a queue that encrypts, which is made on the way."""
    queue, channel = f"q{uuid.uuid4().hex[:12]}", scheduler.channel()
    made = queues_pb.CreateQueueRequest(queue=queue_pb2.Queue(queue=queue, event_content=EVENT_CONTENT_ENCRYPTED))
    await queues_grpc.QueueServiceStub(channel).CreateQueue(made, metadata=metadata(admin))
    request = tasks_pb.CreateTaskRequest(task=task_pb2.Task(description="a secret", queue=queue, kind="nobody"))
    return await tasks_grpc.SchedulerServiceStub(channel).CreateTask(request, metadata=metadata(user))  # type: ignore[no-any-return]


async def test_an_erased_user_has_no_password_no_keys_and_no_tasks_and_its_name_is_nobody_else_s(
    make_settings: MakeSettings, scheduler_settings: SchedulerSettings, identity_tls: Path
) -> None:
    settings = make_settings(scheduler_target=f"localhost:{scheduler_settings.port}")
    async with (
        running(open_scheduler, scheduler_settings, identity_tls) as scheduler,
        identity_of(settings, identity_tls) as identity,
    ):
        admin = await identity.admin()
        admin = Principal(admin.subject, admin.tenant_id, frozenset({"admin"}))
        ada = await a_user(identity, admin)
        task = await encrypted_task(scheduler, admin, ada)
        erased = await erase(identity, ada, admin)
        assert (erased.username, erased.tenant_id, erased.email, erased.active) == (ada.subject, ada.tenant_id, "", False)
        assert erased.HasField("erase_time")
        assert erased.HasField("keys_destroy_time")
        assert await erase(identity, ada, OPERATOR, ada.tenant_id) == erased, "a repeat changes nothing"
        found = await identity.stub.GetUser(pb.GetUserRequest(username=ada.subject), metadata=metadata(admin))
        assert found == erased
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await identity.stub.IssueToken(pb.IssueTokenRequest(username=ada.subject, password="pw"))
        assert error_info(refused.value)[0] == "INVALID_CREDENTIALS"
        for name in (ada.subject, ada.subject.upper()):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await identity.stub.CreateUser(pb.CreateUserRequest(username=name, password="pw"), metadata=metadata(admin))
            assert error_info(refused.value)[0] == "USER_ALREADY_EXISTS"
        # A token that was given before is good for a while, but not for tasks.
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await encrypted_task(scheduler, admin, ada)
        assert error_info(refused.value) == ("USER_ERASED", {"username": ada.subject})
        stub = tasks_grpc.SchedulerServiceStub(scheduler.channel())
        kept = await stub.GetTask(tasks_pb.GetTaskRequest(task_id=task.task_id), metadata=metadata(admin))
        assert kept.description == "a secret", "what is with the task stays as long as its queue keeps it"


async def test_the_keys_are_destroyed_once_the_scheduler_is_there_whoever_has_died_meanwhile(
    make_settings: MakeSettings, scheduler_settings: SchedulerSettings, identity_tls: Path
) -> None:
    settings = make_settings(scheduler_target=f"localhost:{scheduler_settings.port}")
    async with identity_of(settings, identity_tls) as identity:
        admin = await identity.admin()
        ada = await a_user(identity, admin)
        half = await erase(identity, ada, admin)
        assert half.HasField("erase_time")
        assert not half.HasField("keys_destroy_time")
        with pytest.raises(grpc.aio.AioRpcError):
            await identity.stub.IssueToken(pb.IssueTokenRequest(username=ada.subject, password="pw"))
    # Another process, that knows of it by the row alone.
    async with (
        running(open_scheduler, scheduler_settings, identity_tls) as scheduler,
        identity_of(settings, identity_tls) as identity,
    ):
        async with asyncio.timeout(20):
            while True:
                found = await identity.stub.GetUser(pb.GetUserRequest(username=ada.subject), metadata=metadata(admin))
                if found.HasField("keys_destroy_time"):
                    break
                await asyncio.sleep(0.05)
        assert found.erase_time == half.erase_time
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await encrypted_task(scheduler, admin, ada)
        assert error_info(refused.value) == ("USER_ERASED", {"username": ada.subject})


async def test_who_may_erase_whom(make_settings: MakeSettings, identity_tls: Path) -> None:
    settings = make_settings(scheduler_target="localhost:1")
    async with identity_of(settings, identity_tls) as identity:
        admin, other = await identity.admin(), await identity.admin()
        ada = await a_user(identity, admin)
        chief = await a_user(identity, OPERATOR, roles=["operator"], tenant_id=admin.tenant_id)
        chief = Principal(chief.subject, admin.tenant_id, chief.roles)
        for user, by, tenant_id, reason in (
            (ada, ada, "", "ROLE_REQUIRED"),
            (ada, other, "", "USER_NOT_FOUND"),
            (ada, other, admin.tenant_id, "ROLE_REQUIRED"),
            (chief, admin, "", "ROLE_REQUIRED"),
            (ada, OPERATOR, "no-such-tenant", "USER_NOT_FOUND"),
            (ada, OPERATOR, "No Tenant", "INVALID_ARGUMENT"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await erase(identity, user, by, tenant_id)
            assert error_info(refused.value)[0] == reason, (user, by, tenant_id)
        assert (await erase(identity, chief, OPERATOR, admin.tenant_id)).HasField("erase_time")
