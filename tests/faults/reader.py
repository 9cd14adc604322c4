"""What a reader of Kafka sees: both topics, committed records only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from guildmesh.events.v1.task_event_pb2 import TaskEvent, TaskSnapshot

from tests.faults.events import event_of
from tests.faults.evidence import Event, StateRecord
from tests.faults.history import digest

SHARDS = 16
_LATE_SECONDS = 0.3
_LIBRARY = logging.getLogger("aiokafka")


class KafkaReader:
    """Reads both topics from their beginning for as long as the cluster lives, committed records only."""

    def __init__(self, servers: str, topics: tuple[str, str]) -> None:
        self._servers = servers
        self._topics = topics
        self._partitions = [TopicPartition(topic, partition) for topic in topics for partition in range(SHARDS)]
        self._task: asyncio.Task[None] | None = None
        self._level = logging.NOTSET
        self._news = asyncio.Event()
        self.events: dict[str, list[Event]] = defaultdict(list)
        """by tenant."""
        self.states: dict[str, list[StateRecord]] = defaultdict(list)

    async def __aenter__(self) -> KafkaReader:
        # A broker that is killed is what these runs are about; the library would say it some 2,500 times a second.
        self._level = _LIBRARY.level
        _LIBRARY.setLevel(logging.CRITICAL)
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        _LIBRARY.setLevel(self._level)

    def forget(self, tenant: str) -> None:
        """Drops what is known of a tenant that was judged."""
        self.events.pop(tenant, None)
        self.states.pop(tenant, None)

    async def until(self, tenant: str, expected: set[tuple[str, int]], seconds: float) -> None:
        """Waits until the events are there, or for `seconds`; then a little longer, for what should not be there."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._has(tenant, expected):
                    self._news.clear()
                    await self._news.wait()
        await asyncio.sleep(_LATE_SECONDS)

    def _has(self, tenant: str, expected: set[tuple[str, int]]) -> bool:
        found = self.events[tenant]
        return len(found) >= len(expected) and expected <= {(event.task_id, event.number) for event in found}

    async def _read(self) -> None:
        while True:
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self._servers,
                isolation_level="read_committed",
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                metadata_max_age_ms=500,
            )
            consumer.assign(self._partitions)
            try:
                await consumer.start()
                await consumer.seek_to_beginning()
                # A reader that has to begin anew forgets what it had: it is there still.
                self.events.clear()
                self.states.clear()
                while True:
                    for partition, records in (await consumer.getmany(timeout_ms=200)).items():
                        self._take(partition.topic, records)
                        self._news.set()
            except (OSError, TimeoutError, Exception) as error:
                if isinstance(error, asyncio.CancelledError):
                    raise
                await asyncio.sleep(0.2)
            finally:
                with contextlib.suppress(Exception):
                    await consumer.stop()

    def _take(self, topic: str, records: Iterable[Any]) -> None:
        for record in records:
            if topic == self._topics[0]:
                event = TaskEvent.FromString(record.value)
                self.events[event.tenant_id].append(event_of(event))
            elif record.value is not None:
                # A tombstone is of a task that ended long before this run.
                state = TaskSnapshot.FromString(record.value)
                entry = StateRecord(state.task_id, state.state, state.last_event_number, digest(record.value))
                self.states[state.tenant_id].append(entry)
