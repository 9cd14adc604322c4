"""The storage under test, and the loop it lives on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from services.common.db.driver import Driver
from services.common.db.engine_role import EngineDriver
from services.common.storage.object_store import open_object_store
from services.scheduler.server.dead_letter_convert import replayed_task
from services.scheduler.server.schedule_convert import scheduled_task
from services.scheduler.storage.batches import Batches
from services.scheduler.storage.cancel import Cancellations
from services.scheduler.storage.dead_letters import DeadLetters
from services.scheduler.storage.decided_queues import DecidedQueues
from services.scheduler.storage.fire_batch import DueSchedules
from services.scheduler.storage.graphs import Graphs
from services.scheduler.storage.payload_sweep import PayloadSweep
from services.scheduler.storage.payloads import Payloads
from services.scheduler.storage.queues import StoredQueues
from services.scheduler.storage.replays import FailedTasks
from services.scheduler.storage.schedules import Schedules
from services.scheduler.storage.signals import Signals
from services.scheduler.storage.tasks import Tasks
from services.scheduler.usecases.delete_payload import DeletePayload
from services.scheduler.usecases.delete_queue import DeleteQueue
from services.scheduler.usecases.hub import Hub
from services.scheduler.usecases.read_payload import ReadPayload
from services.scheduler.usecases.sweep_payloads import SweepPayloads
from services.scheduler.usecases.upload_payload import UploadPayload
from tests.integration.scheduler.task_life.deciders import Deciders

T = TypeVar("T")
RETENTION_DAYS = 30
_LEASE = timedelta(minutes=5)


@dataclass
class World:
    """The storage under test, and the loop it lives on."""

    runner: asyncio.Runner
    database: Driver

    seen: Counter[str] = field(default_factory=Counter)
    """how often what happened, so that a test in which nothing did cannot pass."""

    def __post_init__(self) -> None:
        hub, engine = Hub("test"), EngineDriver(self.database)
        self.engine = engine
        self.decided = DecidedQueues(engine)
        self.batches = Batches(engine, hub, _LEASE, self.decided)
        # A lease that has ended when it begins: what a worker has that died at once.
        self.dying = Batches(engine, hub, timedelta(), self.decided)
        self.cancellations = Cancellations(self.database, hub)
        self.tasks = Tasks(self.database)
        self.signals = Signals(self.database, hub)
        self.queues = StoredQueues(self.database, engine, hub)
        self.delete_queue = DeleteQueue(self.queues)
        self.failed = FailedTasks(self.database, hub, _LEASE, RETENTION_DAYS, replayed_task, self.decided)
        self.letters = DeadLetters(self.database)
        self.schedules = Schedules(self.database, hub, _LEASE, RETENTION_DAYS, self.decided, 1000)
        self.graphs = Graphs(self.database, hub, _LEASE, self.decided)
        self.objects = open_object_store("memory:///", "", "", {})
        payloads = Payloads(self.database)
        self.upload = UploadPayload(payloads, self.objects, 1 << 20, _LEASE, _LEASE)
        self.read_payload = ReadPayload(payloads, self.objects)
        self.delete_payload = DeletePayload(payloads, self.objects)
        # Only those are looked at whose time a test has passed.
        self.sweep_payloads = SweepPayloads(PayloadSweep(engine, _LEASE, _LEASE), self.objects, 1.0)
        self.due = DueSchedules(engine, hub, _LEASE, RETENTION_DAYS, scheduled_task, self.decided)
        self.deciders = Deciders(engine, hub, _LEASE)
        self.do(self.deciders.begin())

    def close(self) -> None:
        """Ends what runs in the background."""
        self.do(self.deciders.end())

    def do(self, work: Awaitable[T]) -> T:
        """Waits for something."""

        async def wait() -> T:
            return await work

        return self.runner.run(wait())

    def query(self, statement: str, *arguments: object) -> list[tuple[object, ...]]:
        """The rows of a statement."""

        async def ask() -> list[tuple[object, ...]]:
            async with self.engine.transaction() as connection:
                return [tuple(row) for row in await connection.fetch(statement, *arguments)]

        return self.do(ask())
