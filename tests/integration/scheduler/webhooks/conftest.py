"""A scheduler, a relay and the webhook process, on a database and topics of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from guildmesh.scheduler.v1 import webhook_pb2
from guildmesh.scheduler.v1 import webhook_service_pb2 as pb
from guildmesh.scheduler.v1 import webhook_service_pb2_grpc as pb_grpc
from guildmesh_client.worker import Task, Worker
from pydantic import SecretStr

from services.common.service import RunningService
from services.scheduler.bootstrap import open_service
from services.scheduler.webhooks.bootstrap import open_webhooks
from services.scheduler.webhooks.settings import WebhookSettings
from tests.integration.scheduler.conftest import MakeSettings, Scheduler
from tests.integration.scheduler.test_relay import (  # noqa: F401 - fixtures
    MakeRelay,
    own_settings,
    relay_settings,
    relaying,
    wait_ready,
)
from tests.support.receiver import Receiver
from tests.support.service import metadata, running

MakeWebhooks = Callable[..., WebhookSettings]


@dataclass
class Hooks:
    """Calls of WebhookService by ada."""

    scheduler: Scheduler

    def __post_init__(self) -> None:
        self.stub: pb_grpc.WebhookServiceAsyncStub = pb_grpc.WebhookServiceStub(self.scheduler.channel)
        self.metadata = metadata(self.scheduler.ada)

    async def create(self, receiver: Receiver, webhook_id: str = "hook", **fields: Any) -> webhook_pb2.Webhook:
        webhook = webhook_pb2.Webhook(webhook_id=webhook_id, **{"url": receiver.url} | fields)
        return await self.stub.CreateWebhook(pb.CreateWebhookRequest(webhook=webhook), metadata=self.metadata)

    async def get(self, webhook_id: str = "hook") -> webhook_pb2.Webhook:
        return await self.stub.GetWebhook(pb.GetWebhookRequest(webhook_id=webhook_id), metadata=self.metadata)

    async def until(self, done: Callable[[webhook_pb2.Webhook], bool], webhook_id: str = "hook") -> webhook_pb2.Webhook:
        """Waits for what a webhook says."""
        async with asyncio.timeout(30):
            while not done(webhook := await self.get(webhook_id)):  # noqa: ASYNC110 - it is another process's
                await asyncio.sleep(0.1)
        return webhook

    @asynccontextmanager
    async def echoing(self) -> AsyncIterator[None]:
        """A worker that completes ada's tasks."""
        worker = Worker(channel=self.scheduler.channel, metadata=self.metadata, concurrency=50)

        @worker.task(self.scheduler.kind)
        async def echo(task: Task) -> Any:
            return "done"

        working = asyncio.create_task(worker.run())
        try:
            yield
        finally:
            worker.stop()
            await working


@pytest.fixture
def webhook_settings(relay_settings: MakeRelay) -> MakeWebhooks:  # noqa: F811 - the fixture
    """Settings of a webhook process that is quick to try again."""
    relay = relay_settings()

    def make(**changes: Any) -> WebhookSettings:
        values: dict[str, Any] = {
            "database_url": SecretStr(relay.database_url.get_secret_value()),
            "kafka_bootstrap_servers": relay.kafka_bootstrap_servers,
            "events_topic": relay.events_topic,
            "admin_port": 0,
            "lease_seconds": 1.5,
            "poll_seconds": 0.1,
            "retry_seconds": 0.05,
            "longest_closed_seconds": 0.3,
            "webhook_timeout_seconds": 2.0,
        }
        return WebhookSettings(_env_file=None, **(values | changes))

    return make


@asynccontextmanager
async def delivering(settings: WebhookSettings) -> AsyncIterator[RunningService]:
    """A webhook process within this one."""
    async with open_webhooks(settings) as service:
        process = RunningService(service, settings)
        await process.start()
        try:
            yield process
        finally:
            await process.stop()


@pytest.fixture
async def hooks(
    request: pytest.FixtureRequest,
    own_settings: MakeSettings,  # noqa: F811 - the fixture
    relay_settings: MakeRelay,  # noqa: F811 - the fixture
    scheduler_tls: Path,
) -> AsyncIterator[Hooks]:
    """A scheduler and a relay, with other settings of the relay as the parameter; the webhook process is the test's own."""
    relay = relay_settings(**getattr(request, "param", {}))
    settings = own_settings(kafka_bootstrap_servers=relay.kafka_bootstrap_servers, events_topic=relay.events_topic)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(open_service, settings, scheduler_tls))
        await wait_ready(await stack.enter_async_context(relaying(relay)))
        yield Hooks(Scheduler(server))
