"""Prometheus pages of several processes as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

_Labels = tuple[tuple[str, str], ...]


class _Sum(Collector):
    def __init__(self, pages: Sequence[str]) -> None:
        self._pages = pages

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        sums: dict[str, dict[tuple[str, _Labels], float]] = {}
        for page in self._pages:
            for family in text_string_to_metric_families(page):
                families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                samples = sums.setdefault(family.name, {})
                for sample in family.samples:
                    key = (sample.name, tuple(sorted(sample.labels.items())))
                    samples[key] = _joined(sample.name, samples.get(key), sample.value)
        for name, family in families.items():
            for (sample_name, labels), value in sums[name].items():
                family.add_sample(sample_name, dict(labels), value)
            yield family


def _joined(name: str, before: float | None, value: float) -> float:
    if before is None:
        return value
    # Points in time do not add up: the oldest process and the oldest counter say since when the sums count.
    if name.endswith("_created") or name == "process_start_time_seconds":
        return min(before, value)
    return max(before, value) if name.endswith("_info") else before + value


def summed(pages: Sequence[str]) -> bytes:
    """One page with the sum of every sample of the same name and labels."""
    registry = CollectorRegistry()
    registry.register(_Sum(pages))
    return generate_latest(registry)
