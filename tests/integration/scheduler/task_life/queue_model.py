"""What queues should do, by their limits alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from guildmesh.scheduler.v1.task_pb2 import RetryPolicy as RetryMessage
from guildmesh.scheduler.v1.task_pb2 import Task as TaskMessage

from services.scheduler.domain.queue import Queue
from services.scheduler.domain.retry import RetryPolicy
from services.scheduler.domain.task import State
from tests.integration.scheduler.task_life.model import TENANT, Model

_PATIENT = RetryPolicy(initial_ms=3_600_000, max_ms=3_600_000, non_retryable=("BAD",))
_RATES = {"drip": (0.001, 1), "flow": (50.0, 2)}
"""starts a second and how many may be saved up; of the first hardly any while a test lasts."""
DROP_SECONDS = 1 / _RATES["flow"][0]
"""in which a flow lets one more start."""
_NEARLY = 1e-3
GUEST = "globex"
"""the other tenant of the shared queue."""
_WEIGHTS = {TENANT: 5.0, GUEST: 2.0}


@dataclass
class Bucket:
    """How many starts a rate has saved up: at least and at most, since nobody says when exactly it was looked at."""

    rate: str = ""
    least: float = 0.0
    most: float = 0.0
    at: float = 0.0
    """since when `least` is so."""
    begun: float = 0.0
    """since when `most` is."""
    fading: float = 0.0
    """starts a second by the rate before, which holds until the new one is known."""

    def limit(self, rate: str, now: float) -> None:
        """Another rate holds, which may count what passed before it."""
        self.spend(0, now, now)
        # What started last without a rate may count as well.
        self.least = -1.0
        if rate == "flow":
            self.most = _RATES[rate][1]
        self.fading = _RATES[self.rate][0] if self.rate else 0.0
        self.rate = rate

    def known(self, now: float) -> None:
        """Whoever decides goes by the rate, since a moment before this one."""
        if self.rate and self.fading:
            self.most = min(_RATES[self.rate][1], self.most + (now - self.begun) * self.fading)
        self.fading, self.at = 0.0, now

    def begin_anew(self, before: float, now: float) -> None:
        """It is empty, since a moment between these."""
        self.least = self.most = 0.0
        self.begun, self.at = before, now

    def spend(self, number: int, before: float, now: float) -> None:
        """So many have started, between these moments; fails when there were not so many."""
        if self.rate:
            per_second, burst = _RATES[self.rate]
            if before > self.begun:
                # More than may be saved up may start while time passes.
                self.most = min(burst, self.most + (before - self.begun) * per_second) + (now - before) * per_second
            self.least = min(burst, self.least + max(0.0, before - self.at) * per_second)
            assert self.most - number > -_NEARLY, "more than the rate lets start"
            self.most = max(0.0, self.most - number)
            if number:
                self.least = max(0.0, self.least - number)
        # A full bucket saves nothing up until something starts, which may be as late as now.
        self.begun, self.at = now, max(self.at, now if number else before)

    @property
    def dry(self) -> bool:
        """Whether nothing more may have been saved up when there was a look at it last."""
        return self.rate != "" and self.least < 1 + _NEARLY


@dataclass
class QueueModel:
    """A queue, as it should be."""

    name: str
    owner: str = TENANT
    """tenant, or * when several share it."""
    priority: int = 5
    max_attempts: int | None = None
    patient: bool = False
    """tasks that do not say otherwise wait for an hour after most failures, and are not tried again after BAD."""
    retention_days: int | None = None
    letter_days: int | None = None
    max_running: int | None = None
    max_running_per_key: int | None = None
    bucket: Bucket = field(default_factory=Bucket)
    paused: bool = False
    decided: bool = False
    """one replica decides: since its first limit."""

    @property
    def limited(self) -> bool:
        """Whether it has a limit of any sort."""
        return self.max_running is not None or self.max_running_per_key is not None or self.bucket.rate != "" or self.paused

    @property
    def tenants(self) -> tuple[str, ...]:
        """Those that have tasks here."""
        return (TENANT,) if self.owner == TENANT else (TENANT, GUEST)

    def row(self, default_days: int | None = None) -> Queue:
        """The queue as its row has it."""
        message = RetryMessage(non_retryable_reasons=["BAD"])
        message.initial_backoff.FromMilliseconds(_PATIENT.initial_ms)
        message.max_backoff.FromMilliseconds(_PATIENT.max_ms)
        rate = _RATES.get(self.bucket.rate)
        return Queue(
            self.name,
            self.priority,
            retention_days=self.retention_days or default_days,
            tenant_id=self.owner,
            tenant_weights={} if self.owner == TENANT else _WEIGHTS,
            dead_letter_retention_days=self.letter_days,
            max_attempts=self.max_attempts,
            retry=_PATIENT.encode() if self.patient else None,
            rate_per_second=rate[0] if rate else None,
            rate_burst=rate[1] if rate else None,
            max_running=self.max_running,
            max_running_per_key=self.max_running_per_key,
            paused=self.paused,
            max_attempts_spec=TaskMessage(max_attempts=self.max_attempts).SerializeToString() if self.max_attempts else b"",
            retry_spec=TaskMessage(retry_policy=message).SerializeToString() if self.patient else b"",
        )

    def firsts(self, models: Iterable[Model]) -> list[Model]:
        """Which of the tasks that are decided on may start next, if the rate lets it: the first of each tenant."""
        models = [model for model in models if model.decided and model.home is self]
        running = Counter(model.key for model in models if model.state is State.RUNNING)
        if self.paused or (self.max_running is not None and running.total() >= self.max_running):
            return []
        most = self.max_running_per_key
        waiting = [
            model
            for model in models
            if model.state is State.PENDING
            and not model.late
            and not (most is not None and model.key and running[model.key] >= most)
        ]
        of_tenants = ([model for model in waiting if model.tenant == tenant] for tenant in self.tenants)
        return [min(line, key=lambda model: (-model.priority, model.order)) for line in of_tenants if line]

    def allows(self, started: Model, models: Iterable[Model]) -> bool:
        """Whether a task that has just started leaves no more running than may, in all and of its key."""
        running = Counter(model.key for model in models if model.decided and model.home is self and model.state is State.RUNNING)
        if self.paused or (self.max_running is not None and running.total() > self.max_running):
            return False
        most = self.max_running_per_key
        return most is None or not started.key or running[started.key] <= most


def rivals_of(started: Model, queues: Sequence[QueueModel], models: Sequence[Model]) -> list[QueueModel]:
    """The other queues out of which something has to start before a task, if their rates let it.

    Nobody foretells whose turn it is in a queue that tenants share: any of their first tasks may be its next.
    """
    place, others = _place(started), [queue for queue in queues if queue is not started.home]
    return [queue for queue in others if (firsts := queue.firsts(models)) and all(_place(model) < place for model in firsts)]


def _place(model: Model) -> tuple[int, int, int]:
    assert model.home is not None
    return -model.home.priority, -model.priority, model.order
