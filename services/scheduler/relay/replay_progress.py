"""How far a replay into a topic is: kept by Kafka, as the offset of a consumer group, in the transaction that publishes.

So a replay that is killed at any moment goes on behind exactly the last record that readers see.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass, fields, replace
from uuid import UUID

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError
from aiokafka.structs import OffsetAndMetadata

_VERSION = 1
_COORDINATOR_SECONDS = 30.0
_NOT_YET = (GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError, GroupLoadInProgressError)


@dataclass(frozen=True, slots=True)
class ReplayRange:
    """Which events are replayed, and how they are written."""

    since: str = ""
    """RFC 3339; of events at this moment or later."""
    until: str = ""
    """RFC 3339; of events before this moment."""
    first: int = 1
    """number of the first event of each task."""
    last: int = 0
    """number of its last one; 0 for no limit."""
    task_id: str = ""
    tenant_id: str = ""
    queue: str = ""
    value_format: str = "protobuf"
    asked: str = ""
    """how a person said `since` and `until`, when one depends on what time it is; then whoever says the same means the same."""

    def __str__(self) -> str:
        """What of it is no default, for people."""
        said = asdict(self)
        return ", ".join(f"{each.name} {said[each.name]}" for each in fields(self) if said[each.name] != each.default) or "all"

    def same_as(self, other: ReplayRange) -> bool:
        """Whether both are of the same events; an end that was not given is the moment of the first start."""
        if self.asked:
            return replace(self, since=other.since, until=other.until) == other
        return replace(self, until=self.until or other.until) == other


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is."""

    range: ReplayRange
    after: str = str(UUID(int=0))
    """the tasks up to this id were read wholly."""
    task_id: str = ""
    """the one behind, when it was read in part."""
    number: int = 0
    """up to which of its events."""
    records: int = 0
    """that were published."""
    done: bool = False

    def encode(self) -> str:
        """As it stands beside the offset."""
        return json.dumps({"version": _VERSION} | asdict(self), separators=(",", ":"))

    @classmethod
    def decode(cls, text: str) -> Progress:
        """Reads what `encode` wrote; raises ValueError for anything else."""
        told = json.loads(text)
        if not isinstance(told, dict) or told.pop("version", None) != _VERSION:
            raise ValueError("this is not the progress of a replay, or of one by another version")
        return cls(**(told | {"range": ReplayRange(**told["range"])}))


def group_of(topic: str) -> str:
    """The consumer group whose offset is the progress of a replay into a topic."""
    return f"guildmesh-replay.{topic}"


async def read_progress(admin: AIOKafkaAdminClient, topic: str) -> Progress | None:
    """How far the last replay into a topic is; None when there was none, or Kafka has forgotten it.

    Raises:
        ValueError: somebody else uses the group.
        KafkaError: Kafka does not answer.
        TimeoutError: nor does whoever keeps the group.
    """
    place = TopicPartition(topic, 0)
    async with asyncio.timeout(_COORDINATOR_SECONDS):
        while True:
            try:
                offsets = await admin.list_consumer_group_offsets(group_of(topic), partitions=[place])
            except _NOT_YET:
                offsets = {}
            if found := offsets.get(place):
                return None if found.offset < 0 else Progress.decode(found.metadata)
            # On a cluster that never had a group, Kafka first makes the topic that keeps them, and loads it; aiokafka gives an
            # empty answer for an error of the whole group.
            await asyncio.sleep(0.1)


async def keep_progress(producer: AIOKafkaProducer, topic: str, progress: Progress) -> None:
    """Keeps it in the producer's transaction."""
    kept = OffsetAndMetadata(progress.records, progress.encode())
    await producer.send_offsets_to_transaction({TopicPartition(topic, 0): kept}, group_of(topic))
