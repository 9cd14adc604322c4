"""The events of a run and its steps, from Kafka as anyone may read them: topic guildmesh.task-events.v1, or the tenant's own."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from google.protobuf import json_format
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from rich.markup import escape

TOPIC = "guildmesh.task-events.v1"
PARTITIONS = 16
_STYLES = {"created": "dim", "started": "cyan", "completed": "green", "failed": "red", "cancelled": "red", "retried": "yellow"}
_LAST = ("completed", "failed", "cancelled")


class TaskEvents:
    """A consumer of the whole topic, from now on, without a group: it keeps its place itself."""

    def __init__(self, bootstrap_servers: str, topic: str = TOPIC) -> None:
        # The client's own remarks on a broker that is away would stand between the events.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        self._topic = topic
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap_servers,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )

    async def __aenter__(self) -> Self:
        """Starts at the end of every partition; of a topic that is yet to come (a tenant's own) it gets all."""
        await self._consumer.start()
        if await self._found():
            for partition, offset in (await self._consumer.end_offsets(self._consumer.assignment())).items():
                self._consumer.seek(partition, offset)
        return self

    async def _found(self) -> bool:
        """Whether the topic is there, whose partitions are then read."""
        if self._topic not in await self._consumer.topics():
            return False
        self._consumer.assign([TopicPartition(self._topic, partition) for partition in range(PARTITIONS)])
        return True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops the consumer."""
        await self._consumer.stop()

    async def next(self, seconds: float) -> list[TaskEvent]:
        """The events that come within `seconds`; none while the broker is away, which the client finds again by itself."""
        try:
            if not self._consumer.assignment() and not await self._found():
                await asyncio.sleep(seconds)
                return []
            batches = await self._consumer.getmany(timeout_ms=int(seconds * 1000))
        except KafkaError:
            await asyncio.sleep(seconds)
            return []
        return [event_of(record.value) for records in batches.values() for record in records]


def topic_of(environment: Mapping[str, str], token: str) -> str:
    """The topic of the events of whoever has a token: that of all tenants, or its tenant's own (KAFKA_TOPIC_PER_TENANT)."""
    topic = environment.get("GUILDMESH_TASK_EVENTS_TOPIC") or TOPIC
    if environment.get("KAFKA_TOPIC_PER_TENANT", "").lower() not in ("1", "true", "t", "yes", "y", "on"):
        return topic
    claims = token.split(".")[1]
    tenant = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["tenant"]
    first, dot, rest = topic.partition(".")
    return f"{first}.{tenant}.{rest}" if dot else f"{topic}.{tenant}"


def event_of(value: bytes) -> TaskEvent:
    """The event that is a record's value, which is JSON where KAFKA_VALUE_FORMAT says so."""
    return json_format.Parse(value, TaskEvent()) if value.startswith(b"{") else TaskEvent.FromString(value)


class EventLog:
    """The events of one run and its steps: how each is printed, and whether all have come."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._numbers: dict[str, list[int]] = {run_id: []}
        self._names: dict[str, str] = {run_id: "run"}
        self._last: dict[str, str] = {}
        self._steps: set[str] = set()
        self._early: list[TaskEvent] = []

    @property
    def count(self) -> int:
        """How many events have come."""
        return sum(len(numbers) for numbers in self._numbers.values())

    @property
    def tasks(self) -> int:
        """How many tasks the events are of."""
        return len(self._numbers)

    @property
    def completed_steps(self) -> int:
        """How many steps have completed."""
        return sum(1 for task_id, last in self._last.items() if last == "completed" and task_id != self.run_id)

    @property
    def ended(self) -> bool:
        """Whether the run's last event has come, and that of every step: they are on other partitions, and may come later."""
        return self.run_id in self._last and all(task_id in self._last for task_id in self._steps | set(self._numbers))

    def add(self, event: TaskEvent) -> str:
        """Takes an event; gives its line, or nothing for an event of another run, or one that has come before."""
        if event.task_id != self.run_id and event.parent_task_id != self.run_id:
            return ""
        numbers = self._numbers.setdefault(event.task_id, [])
        if event.number in numbers:
            # A relay that was killed may send what it had sent again; task and number say that it is the same event.
            return ""
        numbers.append(event.number)
        change = event.WhichOneof("change") or ""
        if event.task_id == self.run_id and change == "completed":
            steps = event.completed.result.struct_value.fields["steps"].struct_value.fields.values()
            self._steps = {step.struct_value.fields["task_id"].string_value for step in steps} - {""}
        if change == "created" and event.task_id != self.run_id:
            labels = event.created.labels
            self._names[event.task_id] = f"{labels['agent_id']}: {labels['step_id']}"
        if change in _LAST:
            self._last[event.task_id] = change
        return self._line(event, change)

    def check_complete(self, step_task_ids: list[str]) -> None:
        """Checks that each task's events came in the order of their numbers, 1..N without a gap.

        Raises:
            MissingEvents: one is missing, or came too late.
        """
        for task_id in (self.run_id, *step_task_ids):
            numbers = self._numbers.get(task_id, [])
            if numbers != list(range(1, len(numbers) + 1)) or not numbers:
                raise MissingEvents(f"the events of the task {task_id} came as {numbers}, not as 1..N in order.")

    def _line(self, event: TaskEvent, change: str) -> str:
        time = event.event_time.ToDatetime().strftime("%H:%M:%S.%f")[:-3]
        name = self._names.get(event.task_id, event.task_id)
        detail = ""
        if change == "started":
            detail = f"attempt {event.attempt}, queue {event.queue}"
        elif change in ("failed", "retried"):
            why = event.failed if change == "failed" else event.retried
            detail = f"{why.reason}: {why.message}"
        elif change.startswith("child_"):
            child = event.child_created if change == "child_created" else event.child_ended
            detail = self._names.get(child.child_task_id, child.child_task_id)
        elif change.startswith("tool_"):
            detail = (event.tool_called if change == "tool_called" else event.tool_returned).tool_name
        elif change == "output":
            detail = " ".join(event.output.text.split())
        elif change == "progressed":
            detail = f"{event.progressed.progress:.0%}"
        style = _STYLES.get(change, "white")
        return f"  [dim]{time}[/] [bold]{escape(name):<28}[/] #{event.number} [{style}]{change:<13}[/] {escape(detail)}"


class MissingEvents(Exception):
    """Kafka did not deliver the events of a task in order and without a gap."""
