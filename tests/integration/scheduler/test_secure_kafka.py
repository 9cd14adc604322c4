"""A real cluster: TLS on both sides, logins, access rules, and topics of its own for each tenant."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError, TopicAuthorizationFailedError
from guildmesh.events.v1.dead_letter_pb2 import TaskDeadLettered
from guildmesh.events.v1.task_event_pb2 import TaskEvent, TaskSnapshot
from guildmesh.scheduler.v1.scheduler_service_pb2 import WatchTasksRequest
from guildmesh_client import cli
from pydantic import SecretStr
from typer.testing import CliRunner

from services.common.errors import DependencyUnavailable
from services.common.ids import new_id
from services.common.kafka.connection import KafkaSettings, kafka_arguments
from services.common.kafka.topics import open_admin
from services.embedded import diagnosis
from services.embedded.diagnosis import Level
from services.embedded.settings import MeshSettings
from services.embedded.state import StateFolder
from services.monitor.adapters.dependencies import KafkaCheck
from services.scheduler.adapters.kafka_acls import relay_rules, replay_rules, set_rules
from services.scheduler.adapters.topics import check_kafka
from services.scheduler.bootstrap import open_service
from services.scheduler.domain.shards import lane_of, shard_of
from services.scheduler.relay.publisher import open_publisher
from services.scheduler.relay.replay import Target, replay_events
from services.scheduler.relay.replay_progress import ReplayRange
from services.scheduler.relay.settings import RelaySettings
from services.scheduler.storage.outbox_codec import pack_tombstone, unpack
from tests.integration.scheduler.conftest import MakeSettings, Scheduler
from tests.integration.scheduler.test_relay import (  # noqa: F401 - fixtures
    MakeRelay,
    header,
    own_settings,
    relay_settings,
    relaying,
    replay_of,
    wait_ready,
)
from tests.support.secure_kafka import ADMIN, SecureKafka, running_secure_kafka
from tests.support.service import metadata, running

RELAY, READER = "relay", "reader"


@pytest.fixture(scope="module")
def secure() -> Iterator[SecureKafka]:
    with running_secure_kafka(RELAY, READER) as kafka:
        yield kafka


@pytest.fixture(autouse=True)
def loops_end_before_tls_does() -> Iterator[None]:
    """Takes away the connections whose broker had not said goodbye when the loop ended.

    aiokafka closes its first connection to a cluster without waiting, and TLS waits for the other side before it lets go of the
    socket. Where a command's loop ends first, which only a busy machine shows, the rest would be told as a warning in any test.
    """
    yield
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed (transport|<socket)", ResourceWarning)
        gc.collect()


@asynccontextmanager
async def consuming(kafka: SecureKafka, user: str, topic: str, **options: Any) -> AsyncIterator[AIOKafkaConsumer]:
    arguments = kafka_arguments(KafkaSettings(_env_file=None, **kafka.client(user)))
    consumer = AIOKafkaConsumer(topic, **arguments, auto_offset_reset="earliest", isolation_level="read_committed", **options)
    try:
        await consumer.start()
        yield consumer
    finally:
        await consumer.stop()


async def records(consumer: AIOKafkaConsumer, count: int) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                found += batch
    return found


async def watched(scheduler: Scheduler, count: int, token: str = "") -> tuple[list[TaskEvent], str]:
    """The next events that a tenant's watcher sees, and the place behind them."""
    call = scheduler.stub.WatchTasks(WatchTasksRequest(resume_token=token), metadata=metadata(scheduler.ada))
    events: list[TaskEvent] = []
    async with asyncio.timeout(20):
        while len(events) < count or not token:
            response = await call.read()
            token = response.resume_token
            events += [response.event] if response.HasField("event") else []
    call.cancel()
    return events, token


async def test_each_tenant_has_topics_that_only_those_read_who_may(
    secure: SecureKafka,
    own_settings: MakeSettings,  # noqa: F811 - the fixture
    relay_settings: MakeRelay,  # noqa: F811 - the fixture
    scheduler_tls: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topics = {"events_topic": "guildmesh.task-events.v1", "state_topic": "guildmesh.task-state.v1", "topic_per_tenant": True}
    settings = relay_settings(**secure.client(RELAY), **topics, dead_letters_topic="guildmesh.dead-letters.v1")
    names = settings.topic_names
    async with open_admin(RelaySettings(_env_file=None, **secure.client(ADMIN))) as admin:
        await set_rules(admin, [*relay_rules(f"User:{RELAY}", names), *replay_rules(f"User:{RELAY}", "again.")])
    watching = own_settings(**secure.client(RELAY), **topics)
    async with running(open_service, watching, scheduler_tls) as server, relaying(settings) as relay:
        await wait_ready(relay)
        acme, globex = Scheduler(server), Scheduler(server)
        # Before its first event a tenant has no topic, and may be watched all the same.
        _, token = await watched(acme, 0)
        tasks = {}
        for each in (acme, globex):
            async with each.worker() as worker:
                failed, done = await each.create("fail"), await each.create("complete")
                for _ in range(2):
                    lease = await worker.lease()
                    if lease.task.description == "fail":
                        await worker.fail(lease, retryable=False)
                    else:
                        await worker.complete(lease)
            tasks[each.ada.tenant_id] = (failed.task_id, done.task_id)
        own = names.of(acme.ada.tenant_id)
        async with consuming(secure, ADMIN, own.events) as consumer:
            events = await records(consumer, 6)
        assert {header(record, "ce_subject") for record in events} == set(tasks[acme.ada.tenant_id])
        async with consuming(secure, ADMIN, own.dead_letters) as consumer:
            (letter,) = await records(consumer, 1)
        assert TaskDeadLettered.FromString(letter.value).task_id == tasks[acme.ada.tenant_id][0]
        seen, _ = await watched(acme, 6, token)
        assert {event.task_id for event in seen} == set(tasks[acme.ada.tenant_id])
        await reads_its_own_alone(secure, monkeypatch, acme.ada.tenant_id, globex.ada.tenant_id, settings)
        await replays(secure, settings, acme.ada.tenant_id, events)
        await forgets(secure, settings, acme.ada.tenant_id, tasks[acme.ada.tenant_id][1])


async def reads_its_own_alone(
    secure: SecureKafka, monkeypatch: pytest.MonkeyPatch, tenant: str, other: str, settings: RelaySettings
) -> None:
    """What `events acls --apply` lets a tenant's principal do."""
    names, principal = settings.topic_names, f"User:{READER}"
    with pytest.raises(TopicAuthorizationFailedError):
        async with consuming(secure, READER, names.of(tenant).events) as consumer:
            await records(consumer, 1)
    set_environment(monkeypatch, secure.client(ADMIN))
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())
    monkeypatch.setenv("KAFKA_TOPIC_PER_TENANT", "true")
    arguments = ["events", "acls", "--principal", principal, "--tenant", tenant, "--apply"]
    result = await asyncio.to_thread(CliRunner().invoke, cli.application(), arguments)
    assert result.exit_code == 0, result.output
    assert f"--allow-principal {principal} --operation Read --topic guildmesh.{tenant}.task-events.v1" in result.output
    group = f"{tenant}.billing"
    for topic in names.of(tenant).all:
        async with consuming(secure, READER, topic, group_id=group) as consumer:
            assert await records(consumer, 1)
    for topic in names.of(other).all:
        with pytest.raises(TopicAuthorizationFailedError):
            async with consuming(secure, READER, topic, group_id=group) as consumer:
                await records(consumer, 1)
    with pytest.raises(GroupAuthorizationFailedError):
        async with consuming(secure, READER, names.of(tenant).events, group_id=f"{other}.billing") as consumer:
            await records(consumer, 1)


async def replays(secure: SecureKafka, settings: RelaySettings, tenant: str, events: list[Any]) -> None:
    """A replay of one tenant, by a principal that has the rules for it."""
    topic = "again.acme"
    wanted = ReplayRange(since="2020-01-01T00:00:00+00:00", tenant_id=tenant)
    await replay_events(replay_of(settings), wanted, Target(topic), lambda _: None)
    async with consuming(secure, ADMIN, topic) as consumer:
        again = await records(consumer, len(events))
    assert sorted((each.partition, each.key, each.value) for each in again) == sorted(
        (each.partition, each.key, each.value) for each in events
    )


async def forgets(secure: SecureKafka, settings: RelaySettings, tenant: str, task_id: str) -> None:
    """The tombstone of a task that is no longer kept comes on its tenant's topic."""
    shard = shard_of(task_id)
    # As if the lane's relay were another one: this one is fenced, and opens it again.
    async with open_publisher(settings, lane_of(shard)) as publisher:
        await publisher.publish(unpack(pack_tombstone(shard, task_id, tenant)))
        await publisher.publish(unpack(pack_tombstone(shard, new_id(), "")))
    async with consuming(secure, ADMIN, settings.topic_names.of(tenant).state) as consumer:
        found: list[Any] = []
        while not any(record.value is None for record in found):
            found += await records(consumer, 1)
    states = {record.key.decode(): record.value for record in found}
    assert states[task_id] is None
    assert {TaskSnapshot.FromString(value).tenant_id for value in states.values() if value} == {tenant}


async def test_whoever_may_not_log_in_is_told_and_waits(secure: SecureKafka) -> None:
    wrong = secure.client(RELAY, kafka_sasl_password=SecretStr("wrong"))
    with pytest.raises(DependencyUnavailable):
        await check_kafka(RelaySettings(_env_file=None, **wrong))
    plain = {"kafka_bootstrap_servers": secure.client(RELAY)["kafka_bootstrap_servers"]}
    with pytest.raises(DependencyUnavailable):
        await check_kafka(RelaySettings(_env_file=None, **plain))
    stranger = secure.client(RELAY, kafka_ssl_ca_file=None)
    with pytest.raises((KafkaError, OSError)):
        async with open_admin(RelaySettings(_env_file=None, **stranger)):
            pass


def test_the_doctor_says_whether_it_lets_us_in(secure: SecureKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, secure.client(RELAY))
    settings, state = MeshSettings(_env_file=None), StateFolder(tmp_path)
    (good,) = diagnosis._kafka(settings, state)
    assert (good.level, good.text.split(", ")[-1]) == (Level.GOOD, "SASL_SSL")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "wrong")
    (bad,) = diagnosis._kafka(settings, state)
    assert bad.level is Level.BAD
    assert "KAFKA_SASL_" in bad.text
    monkeypatch.delenv("KAFKA_SASL_PASSWORD")
    (wrong,) = diagnosis._kafka(settings, state)
    assert "needs KAFKA_SASL_PASSWORD" in wrong.text


def set_environment(monkeypatch: pytest.MonkeyPatch, client: dict[str, Any]) -> None:
    for name, value in client.items():
        monkeypatch.setenv(name.upper(), value.get_secret_value() if isinstance(value, SecretStr) else str(value))


async def test_the_monitor_and_every_kind_of_login_reach_it(secure: SecureKafka) -> None:
    for user in (ADMIN, RELAY):
        check = KafkaCheck(KafkaSettings(_env_file=None, **secure.client(user)))
        try:
            await check()
        finally:
            await check.close()
