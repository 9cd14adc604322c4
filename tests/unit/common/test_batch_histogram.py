from __future__ import annotations

from prometheus_client import REGISTRY, Histogram, generate_latest
from prometheus_client.registry import CollectorRegistry

from services.common.telemetry.batch_histogram import BatchHistogram


def test_a_batch_counts_as_its_values_one_by_one() -> None:
    buckets = (0.1, 1.0, 10.0)
    ours = BatchHistogram("probe_seconds", "A probe.", "queue", buckets)
    REGISTRY.unregister(ours)
    mine, reference = CollectorRegistry(), CollectorRegistry()
    mine.register(ours)
    one_by_one = Histogram("probe_seconds", "A probe.", ["queue"], buckets=buckets, registry=reference)
    for batch in ([0.05, 0.1, 0.11], [1.0, 5.0, 100.0], [10.0]):
        ours.observe("code", batch)
        for value in batch:
            one_by_one.labels("code").observe(value)
    theirs = [line for line in generate_latest(reference).decode().splitlines() if "_created" not in line]
    assert generate_latest(mine).decode().splitlines() == theirs
