"""What a queue should do, by its limits alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from guildmesh.scheduler.v1.task_pb2 import RetryPolicy as RetryMessage
from guildmesh.scheduler.v1.task_pb2 import Task as TaskMessage

from services.scheduler.domain.queue import Queue
from services.scheduler.domain.retry import RetryPolicy
from services.scheduler.domain.task import State
from tests.integration.scheduler.task_life.model import Model

_PATIENT = RetryPolicy(initial_ms=3_600_000, max_ms=3_600_000, non_retryable=("BAD",))
_DROP_PER_SECOND = 0.001
"""so seldom that nothing starts while a test lasts: a bucket begins empty."""


@dataclass
class QueueModel:
    """A queue, as it should be."""

    name: str
    priority: int = 5
    max_attempts: int | None = None
    patient: bool = False
    """tasks that do not say otherwise wait for an hour after most failures, and are not tried again after BAD."""
    retention_days: int | None = None
    letter_days: int | None = None
    max_running: int | None = None
    max_running_per_key: int | None = None
    dripping: bool = False
    """its rate lets hardly anything start."""
    paused: bool = False
    decided: bool = False
    """one replica decides: since its first limit."""

    @property
    def limited(self) -> bool:
        """Whether it has a limit of any sort."""
        return self.max_running is not None or self.max_running_per_key is not None or self.dripping or self.paused

    def row(self, tenant_id: str, default_days: int | None = None) -> Queue:
        """The queue as its row has it."""
        message = RetryMessage(non_retryable_reasons=["BAD"])
        message.initial_backoff.FromMilliseconds(_PATIENT.initial_ms)
        message.max_backoff.FromMilliseconds(_PATIENT.max_ms)
        return Queue(
            self.name,
            self.priority,
            retention_days=self.retention_days or default_days,
            tenant_id=tenant_id,
            dead_letter_retention_days=self.letter_days,
            max_attempts=self.max_attempts,
            retry=_PATIENT.encode() if self.patient else None,
            rate_per_second=_DROP_PER_SECOND if self.dripping else None,
            rate_burst=1 if self.dripping else None,
            max_running=self.max_running,
            max_running_per_key=self.max_running_per_key,
            paused=self.paused,
            max_attempts_spec=TaskMessage(max_attempts=self.max_attempts).SerializeToString() if self.max_attempts else b"",
            retry_spec=TaskMessage(retry_policy=message).SerializeToString() if self.patient else b"",
        )

    def next(self, models: Iterable[Model], slots: int) -> list[Model]:
        """Which of the tasks that are decided on start next, when so many slots are offered."""
        models = [model for model in models if model.decided]
        running = Counter(model.key for model in models if model.state is State.RUNNING)
        waiting = sorted(
            (model for model in models if model.state is State.PENDING and not model.late),
            key=lambda model: (-model.priority, model.order),
        )
        started: list[Model] = []
        for model in waiting:
            if len(started) == slots or self.paused or self.dripping:
                break
            if self.max_running is not None and running.total() >= self.max_running:
                break
            if self.max_running_per_key is not None and model.key and running[model.key] >= self.max_running_per_key:
                continue
            running[model.key] += 1
            started.append(model)
        return started

    def allows(self, models: Iterable[Model]) -> bool:
        """Whether no more run than may, when all have started by the limits that are."""
        running = Counter(model.key for model in models if model.decided and model.state is State.RUNNING)
        if self.max_running is not None and running.total() > self.max_running:
            return False
        most = self.max_running_per_key
        return most is None or all(number <= most for key, number in running.items() if key)
