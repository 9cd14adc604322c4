"""Webhooks where each tenant has topics of its own, and while that is changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka.admin import NewPartitions, NewTopic
from guildmesh.scheduler.v1 import webhook_service_pb2 as pb

from services.common.failpoints import CRASH_STATUS
from services.common.kafka.topics import open_admin
from services.common.service import RunningService
from services.scheduler.bootstrap import open_service
from services.scheduler.domain.shards import LANES, SHARDS, lane_of, shards_of
from services.scheduler.domain.topic_names import tenant_topic
from services.scheduler.relay.settings import RelaySettings
from services.scheduler.webhooks import routing
from services.scheduler.webhooks.former_topics import FormerTopics
from tests.integration.scheduler.conftest import MakeSettings, Scheduler
from tests.integration.scheduler.test_relay import MakeRelay, own_settings, relay_settings, relaying  # noqa: F401 - fixtures
from tests.integration.scheduler.webhooks.conftest import Hooks, MakeWebhooks, delivering
from tests.integration.scheduler.webhooks.test_kills import MakeProcess, webhooks  # noqa: F401 - the fixture
from tests.support.receiver import Receiver, receiving
from tests.support.service import TestServer, running


@dataclass
class Tenants:
    """A scheduler, whose relay is the test's own, with two tenants."""

    server: TestServer
    one: RelaySettings
    """one topic for all tenants."""
    own: RelaySettings
    """topics of its own for each."""

    def __post_init__(self) -> None:
        self.acme, self.globex = (Hooks(Scheduler(self.server)) for _ in range(2))

    def topic(self, hooks: Hooks) -> str:
        return tenant_topic(self.own.events_topic, hooks.scheduler.ada.tenant_id)


@pytest.fixture
async def tenants(
    own_settings: MakeSettings,  # noqa: F811 - the fixture
    relay_settings: MakeRelay,  # noqa: F811 - the fixture
    scheduler_tls: Path,
) -> AsyncIterator[Tenants]:
    one, own = relay_settings(), relay_settings(topic_per_tenant=True)
    settings = own_settings(kafka_bootstrap_servers=own.kafka_bootstrap_servers, events_topic=own.events_topic)
    async with running(open_service, settings, scheduler_tls) as server:
        yield Tenants(server, one, own)


async def create_in_every_lane(hooks: Hooks) -> list[str]:
    """A webhook leaves the topic of before in a lane when there is something on that of now."""
    made: list[str] = []
    while {lane_of(shard) for shard in shards_of(made)} != set(range(LANES)):
        made += await create(hooks, 1)
    return made


async def create(hooks: Hooks, number: int) -> list[str]:
    return [(await hooks.scheduler.create(str(each))).task_id for each in range(number)]


async def seen(receiver: Receiver, task_ids: Sequence[str]) -> None:
    """Waits for an event of each task."""
    await receiver.until(lambda: set(receiver.numbers()) >= set(task_ids))


async def complete(receiver: Receiver, task_ids: Sequence[str]) -> None:
    """Waits for the last event of each task; then the receiver has all of them in order, and nothing else."""

    def ended() -> bool:
        done = {request.task_id for request in receiver.taken if request.headers["ce-type"] == "guildmesh.task.completed.v1"}
        return done >= set(task_ids)

    await receiver.until(ended)
    numbers = receiver.numbers()
    assert set(numbers) == set(task_ids)
    for line in numbers.values():
        assert line == list(range(1, max(3, len(line)) + 1))


async def test_each_tenant_gets_the_events_of_its_own_topic_whoever_is_killed(
    tenants: Tenants,
    webhooks: MakeProcess,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    process = webhooks("one", KAFKA_TOPIC_PER_TENANT="true")
    rules = tmp_path / "one.rules"
    async with (
        receiving() as one,
        receiving() as other,
        relaying(tenants.own),
        tenants.acme.echoing(),
        tenants.globex.echoing(),
    ):
        # Before there is a topic of either.
        await tenants.acme.create(one)
        await tenants.globex.create(other)
        await process.start()
        made, others = await create(tenants.acme, 6), await create(tenants.globex, 6)
        await asyncio.gather(complete(one, made), complete(other, others))
        for point in ("webhooks.route.before_commit", "webhooks.send.after_answer"):
            rules.write_text(f"{point}=crash@1")
            made += await create(tenants.acme, 5)
            others += await create(tenants.globex, 5)
            assert await process.ended() == CRASH_STATUS, process.tail()
            rules.write_text("")
            await process.start()
        await asyncio.gather(complete(one, made), complete(other, others))
        async with open_admin(tenants.own) as admin:
            there = set(await admin.list_topics())
        assert {tenants.topic(tenants.acme), tenants.topic(tenants.globex)} <= there
        assert tenants.own.events_topic not in there


async def topics(client: httpx.AsyncClient, process: RunningService, *, wanted: int, read: int) -> None:
    """Waits until the metrics say so: each lane begins and ends its readings by itself."""
    url = f"http://127.0.0.1:{process.admin_port}/metrics"
    told = {"wanted": wanted, "read": read}
    lines = {f'guildmesh_webhook_topics{{state="{state}"}} {number:.1f}' for state, number in told.items()}
    async with asyncio.timeout(10):
        while not lines <= set((await client.get(url)).text.splitlines()):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.1)


async def test_a_topic_that_is_refused_holds_up_no_other_tenant(tenants: Tenants, webhook_settings: MakeWebhooks) -> None:
    topic = tenants.topic(tenants.acme)
    async with open_admin(tenants.own) as admin:
        await admin.create_topics([NewTopic(topic, 3, 1)])
    settings = webhook_settings(topic_per_tenant=True)
    async with receiving() as one, receiving() as other, delivering(settings) as process:
        await tenants.acme.create(one)
        await tenants.globex.create(other)
        async with relaying(tenants.own), tenants.globex.echoing(), httpx.AsyncClient() as client:
            await complete(other, await create(tenants.globex, 5))
            await topics(client, process, wanted=2 * LANES, read=LANES)
            assert one.requests == []
            async with open_admin(tenants.own) as admin:
                await admin.create_partitions({topic: NewPartitions(SHARDS)})
            async with tenants.acme.echoing():
                await complete(one, await create(tenants.acme, 3))
            # Nobody reads for a tenant that has no webhook any more.
            await tenants.acme.stub.DeleteWebhook(pb.DeleteWebhookRequest(webhook_id="hook"), metadata=tenants.acme.metadata)
            await topics(client, process, wanted=LANES, read=LANES)
            await complete(other, [*other.numbers(), *await create(tenants.globex, 2)])


async def test_nothing_is_lost_and_all_is_in_order_when_the_setting_of_topics_is_changed_and_back(
    tenants: Tenants, webhook_settings: MakeWebhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "_REST_SECONDS", 0.1)
    stays: asyncio.Queue[bool] = asyncio.Queue()
    after = FormerTopics.after

    async def watched(*arguments: Any) -> Any:
        stays.put_nowait((place := await after(*arguments)) is None)
        return place

    monkeypatch.setattr(FormerTopics, "after", watched)
    hooks, settings, changed = tenants.acme, webhook_settings(), webhook_settings(topic_per_tenant=True)
    async with receiving() as receiver, AsyncExitStack() as relay:
        await relay.enter_async_context(relaying(tenants.one))
        created = await hooks.create(receiver)
        async with delivering(settings), hooks.echoing():
            made = await create(hooks, 4)
            await complete(receiver, made)
        # Nobody has read these, and their tasks go on after the change.
        across = await create(hooks, 12)
        async with delivering(changed):
            # The process of webhooks was changed before the relays, which still publish to the topic of before.
            await seen(receiver, across)
            # Each lane has come to its end, and stays there.
            for _ in range(2 * LANES):
                async with asyncio.timeout(20):
                    assert await stays.get()
            across += await create(hooks, 6)
            await seen(receiver, across)
            await relay.aclose()
            await relay.enter_async_context(relaying(tenants.own))
            async with hooks.echoing():
                made += across + await create(hooks, 4)
                await complete(receiver, made)
            # As if the receiver had lost everything: all comes again, of both topics.
            receiver.taken.clear()
            again = pb.ReplayWebhookRequest(webhook_id="hook", start_time=created.create_time)
            await hooks.stub.ReplayWebhook(again, metadata=hooks.metadata)
            await complete(receiver, made)
        across = await create(hooks, 12)
        await relay.aclose()
        await relay.enter_async_context(relaying(tenants.one))
        async with delivering(settings), hooks.echoing():
            made += across + await create_in_every_lane(hooks)
            await complete(receiver, made)
            idle = await hooks.until(lambda webhook: not webhook.waiting_count and not webhook.behind)
            assert not idle.HasField("missed_time")


async def test_a_topic_of_before_that_is_gone_is_told_and_all_goes_on(tenants: Tenants, webhook_settings: MakeWebhooks) -> None:
    hooks = tenants.acme
    async with receiving() as receiver, relaying(tenants.one), delivering(webhook_settings()):
        await hooks.create(receiver)
        await seen(receiver, await create(hooks, 4))
        await hooks.until(lambda webhook: not webhook.behind)
    async with open_admin(tenants.own) as admin:
        await admin.delete_topics([tenants.one.events_topic])
    async with receiving(port=receiver.port) as again, relaying(tenants.own), delivering(webhook_settings(topic_per_tenant=True)):
        more = await create(hooks, 4)
        await seen(again, more)
        await hooks.until(lambda webhook: webhook.HasField("missed_time"))
