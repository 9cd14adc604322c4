"""The topics are as the AsyncAPI document says: their shape, and each header and value of what really lies there."""

from __future__ import annotations

from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb

from services.scheduler.bootstrap import open_service
from services.scheduler.domain.shards import shard_of
from services.scheduler.relay.settings import RelaySettings
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, value
from tests.integration.scheduler.test_relay import (  # noqa: F401 - fixtures
    MakeRelay,
    all_records,
    own_settings,
    relay_settings,
    relaying,
    until_outbox_empty,
    wait_ready,
)
from tests.support.described import CHANNELS, DOCUMENT, check_record
from tests.support.service import metadata, running

EVENTS, STATE = "guildmesh.task-events.v1", "guildmesh.task-state.v1"
# Those that this test makes happen; types that are added later are looked at when they are met.
TYPES = {
    "created", "ready", "started", "step_completed", "progressed", "output", "retried", "waiting", "signalled", "completed",
    "failed", "cancelled",
}  # fmt: skip


def chunk(lease: worker_pb.TaskLease, text: str) -> worker_pb.TaskOutputChunk:
    return worker_pb.TaskOutputChunk(task_id=lease.task.task_id, attempt=lease.task.attempt, sequence=1, text=text)


async def everything_happens(scheduler: Scheduler) -> list[str]:
    """Tasks to which all happens that can; gives their ids."""
    stub, by = scheduler.stub, metadata(scheduler.ada)
    first = await scheduler.create("steps", labels={"team": "red"})
    async with scheduler.worker() as worker:
        lease = await worker.lease()
        named = {"task_id": lease.task.task_id, "attempt": lease.task.attempt}
        await worker.send(steps=[worker_pb.TaskStep(**named, step_id="fetch", result=value({"answer": 42}))])
        await worker.answer("acks")
        await worker.send(outputs=[chunk(lease, "Once upon a time")])
        await worker.answer("outputs")
        await worker.send(heartbeats=[worker_pb.TaskHeartbeat(**named, progress=0.5)])
        await scheduler.until_event(first.task_id, "progressed")
        await worker.fail(lease, retryable=True)
        lease = await worker.lease()
        named["attempt"] = lease.task.attempt
        await worker.send(waits=[worker_pb.TaskWait(**named, signal="approval", prompt="Go on?")])
        await scheduler.until_event(first.task_id, "waiting")
        await stub.SignalTask(pb.SignalTaskRequest(task_id=first.task_id, signal="approval", value=value("yes")), metadata=by)
        await worker.complete(await worker.lease(), {"text": "ä" * 100})
        second = await scheduler.create("fails")
        await worker.fail(await worker.lease(), retryable=False)
        third = await scheduler.create(dependencies=[task_pb2.TaskDependency(task_id=first.task_id)])
        await worker.complete(await worker.lease())
    fourth = await scheduler.create("never runs", parent_task_id="")
    await scheduler.cancel(fourth.task_id, "no longer needed")
    return [task.task_id for task in (first, second, third, fourth)]


async def test_what_lies_on_the_topics_is_as_the_document_says(
    own_settings: MakeSettings,  # noqa: F811 - the fixture
    relay_settings: MakeRelay,  # noqa: F811 - the fixture
    scheduler_tls: Path,
) -> None:
    relay, settings = relay_settings(), own_settings()
    async with running(open_service, settings, scheduler_tls) as server, relaying(relay) as process:
        await wait_ready(process)
        scheduler = Scheduler(server)
        ids = await everything_happens(scheduler)
        numbers = {task_id: (await scheduler.get(task_id)).last_event_number for task_id in ids}
        await until_outbox_empty(settings)
        topics = {name: field.default for name, field in RelaySettings.model_fields.items() if name.endswith("_topic")}
        records = {address: await all_records(relay, getattr(relay, name)) for name, address in topics.items()}
    seen = {address: {check_record(record, CHANNELS[address]) for record in found} for address, found in records.items()}
    assert all(seen.values()), "a topic without a record"
    assert seen[EVENTS] >= {f"guildmesh.task.{name}.v1" for name in TYPES}
    assert seen[STATE] == {"guildmesh.events.v1.TaskSnapshot"}
    events, states = records[EVENTS], records[STATE]
    assert {(r.key.decode(), int(dict(r.headers)["ce_sequence"])) for r in events} >= set(numbers.items())
    assert {record.key.decode() for record in states} >= set(ids)
    for record in (*events, *states):
        assert record.partition == shard_of(record.key.decode())
    last = {r.key: dict(r.headers)["ce_type"].decode() for r in events}
    marked = {name for name, message in DOCUMENT["components"]["messages"].items() if message.get("x-last")}
    assert set(last.values()) <= marked


async def test_the_topics_are_made_as_the_document_says(relay_settings: MakeRelay, own_settings: MakeSettings) -> None:  # noqa: F811
    settings = relay_settings()
    topics = {name: field for name, field in RelaySettings.model_fields.items() if name.endswith("_topic")}
    async with relaying(settings) as process:
        await wait_ready(process)
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
        await admin.start()
        try:
            for name, field in topics.items():
                topic, channel = getattr(settings, name), CHANNELS[field.default]
                assert str(field.validation_alias) in channel["description"]
                binding = channel["bindings"]["kafka"]
                (described,) = await admin.describe_topics([topic])
                assert len(described["partitions"]) == binding["partitions"]
                (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
                real = {entry[0]: entry[1] for entry in answer.resources[0][4]}
                said = binding["topicConfiguration"]
                expected = {key: ",".join(item) if isinstance(item, list) else str(item) for key, item in said.items()}
                assert {key: real[key] for key in expected} == expected
        finally:
            await admin.close()
