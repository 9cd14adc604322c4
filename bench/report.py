"""What a benchmark tells people while it runs, and its one line of JSON at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

LEAST_CELERY = 700.0
"""tasks/s below which the machine was too busy for any figure of the run to count."""


def tell(line: str) -> None:
    """A line for people."""
    print(line, file=sys.stderr, flush=True)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


@dataclass
class Rates:
    """Tasks per second of the runs of one kind, in their order."""

    runs: list[float] = field(default_factory=list)

    def add(self, rate: float) -> None:
        """Another run."""
        self.runs.append(rate)

    @property
    def rate(self) -> float | None:
        """The median run, or None when there was none."""
        return median(self.runs) if self.runs else None


@dataclass
class Figures:
    """Everything that a run of the benchmark `tasks` measured; what was not measured is empty."""

    load_before: float
    batch: Rates = field(default_factory=Rates)
    kafka: Rates = field(default_factory=Rates)
    single: Rates = field(default_factory=Rates)
    latencies: list[float] = field(default_factory=list)
    watched_latencies: list[float] = field(default_factory=list)
    million: Rates = field(default_factory=Rates)
    million_before: Rates = field(default_factory=Rates)
    """in the same mesh, just before the finished tasks were put there."""
    limited: Rates = field(default_factory=Rates)
    limited_plain: Rates = field(default_factory=Rates)
    """in the same mesh, in turns with them."""
    celery: float | None = None
    celery_how: str = ""
    river_batch: float | None = None
    river_single: float | None = None
    speeds: list[float] = field(default_factory=list)

    @property
    def void(self) -> bool:
        """Whether the machine was too busy: Celery did less than it does on any idle one."""
        return self.celery is not None and self.celery < LEAST_CELERY

    def line(self) -> str:
        """The line of JSON."""
        return json.dumps(asdict(self.summary()))

    def summary(self) -> Summary:
        """The figures that are told."""
        return Summary(
            batch_vs_celery=_ratio(self.batch.rate, self.celery),
            batch_to_kafka_vs_celery=_ratio(self.kafka.rate, self.celery),
            single_vs_celery=_ratio(self.single.rate, self.celery),
            latency_p50_ms=_milliseconds(self.latencies, 0.50),
            latency_p95_ms=_milliseconds(self.latencies, 0.95),
            latency_watched_p50_ms=_milliseconds(self.watched_latencies, 0.50),
            batch_per_s=_whole(self.batch.rate),
            kafka_per_s=_whole(self.kafka.rate),
            single_per_s=_whole(self.single.rate),
            celery_per_s=_whole(self.celery),
            celery_how=self.celery_how,
            river_batch_per_s=_whole(self.river_batch),
            river_single_per_s=_whole(self.river_single),
            million_batch_per_s=_whole(self.million.rate),
            million_ratio=_ratio(self.million.rate, self.million_before.rate),
            limited_batch_per_s=_whole(self.limited.rate),
            limited_ratio=_ratio(self.limited.rate, self.limited_plain.rate),
            batch_runs_per_s=[round(rate) for rate in self.batch.runs],
            kafka_runs_per_s=[round(rate) for rate in self.kafka.runs],
            single_runs_per_s=[round(rate) for rate in self.single.runs],
            million_runs_per_s=[round(rate) for rate in (*self.million_before.runs, *self.million.runs)],
            limited_runs_per_s=[
                round(rate) for pair in zip(self.limited_plain.runs, self.limited.runs, strict=True) for rate in pair
            ],
            speed_runs=[round(each, 1) for each in self.speeds],
            void=self.void,
            load_before=round(self.load_before, 2),
        )


@dataclass(frozen=True)
class Summary:
    """The line of JSON, field by field; docs/benchmarks.md says what each means."""

    batch_vs_celery: float | None
    batch_to_kafka_vs_celery: float | None
    single_vs_celery: float | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_watched_p50_ms: float | None
    batch_per_s: int | None
    kafka_per_s: int | None
    single_per_s: int | None
    celery_per_s: int | None
    celery_how: str
    river_batch_per_s: int | None
    river_single_per_s: int | None
    million_batch_per_s: int | None
    million_ratio: float | None
    limited_batch_per_s: int | None
    limited_ratio: float | None
    batch_runs_per_s: list[int]
    kafka_runs_per_s: list[int]
    single_runs_per_s: list[int]
    million_runs_per_s: list[int]
    limited_runs_per_s: list[int]
    speed_runs: list[float]
    void: bool
    load_before: float


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return round(ours / theirs, 2) if ours is not None and theirs else None


def _whole(rate: float | None) -> int | None:
    return None if rate is None else round(rate)


def _milliseconds(seconds: Sequence[float], share: float) -> float | None:
    return round(percentile(seconds, share) * 1000, 2) if seconds else None
