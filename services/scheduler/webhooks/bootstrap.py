"""Where the parts of the webhook process are put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from services.common.db.driver import open_driver
from services.common.db.engine_role import EngineDriver
from services.common.ids import new_id
from services.common.lanes import Ownership
from services.common.service import Service
from services.scheduler.adapters.event_topic import EventTopics
from services.scheduler.adapters.webhook_sender import open_webhook_sender
from services.scheduler.storage.tasks import Tasks
from services.scheduler.storage.webhook_secrets import WebhookSecrets
from services.scheduler.webhooks.delivery import Places, tenant_places
from services.scheduler.webhooks.health import Health
from services.scheduler.webhooks.lanes import Lanes, Tools
from services.scheduler.webhooks.registry import Registry
from services.scheduler.webhooks.settings import WebhookSettings
from services.scheduler.webhooks.waiting import Waiting


@asynccontextmanager
async def open_webhooks(settings: WebhookSettings) -> AsyncIterator[Service]:
    """The webhook process over the scheduler's schema."""
    async with (
        open_driver(settings, "scheduler") as database,
        open_webhook_sender(settings.webhook_targets, settings.webhook_timeout_seconds) as sender,
    ):
        engine = EngineDriver(database)
        ownership = Ownership(engine, new_id(), settings.lease_seconds, "webhook")
        topics = EventTopics(settings)
        # Each looks at the other: the first lane's owner tells the gauges.
        lanes: Lanes
        health = Health(engine, timedelta(days=settings.failed_days), lambda: lanes.has_first())
        secrets = WebhookSecrets(settings.master_keys)
        registry = Registry(engine, secrets, settings.rules, settings.concurrency, settings.poll_seconds, health.changed)
        tools = Tools(
            registry=registry,
            topics=topics,
            reader=Tasks(database),
            sender=sender,
            health=health,
            places=Places(asyncio.Semaphore(settings.total_concurrency), tenant_places(settings.tenant_concurrency)),
            open_waiting=lambda lane, epoch: Waiting(engine, lane, epoch, topics.names),
        )
        lanes = Lanes(settings, ownership, tools)
        yield Service(
            name="webhooks",
            background=[registry.run, health.run, lanes.run],
            checks={"database": database.check, "secrets": registry.check},
            serves_grpc=False,
        )
