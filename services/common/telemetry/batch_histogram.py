"""A histogram that takes the values of a whole batch at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from prometheus_client import REGISTRY
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class BatchHistogram(Collector):
    """Like prometheus_client's Histogram with one label, at a small part of its price for each value."""

    def __init__(self, name: str, documentation: str, label: str, buckets: Sequence[float]) -> None:
        """Registers the histogram; `buckets` are upper bounds in seconds, in order."""
        self._name = name
        self._documentation = documentation
        self._label = label
        self._bounds = np.array(buckets)
        self._counts: dict[str, np.ndarray] = {}
        self._sums: dict[str, float] = {}
        REGISTRY.register(self)

    def observe(self, label: str, values: Sequence[float]) -> None:
        """Adds the values."""
        bins = np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._bounds) + 1)
        known = self._counts.get(label)
        self._counts[label] = bins if known is None else known + bins
        self._sums[label] = self._sums.get(label, 0.0) + float(np.sum(values))

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """What Prometheus reads."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=[self._label])
        bounds = [*map(floatToGoString, self._bounds.tolist()), "+Inf"]
        for label, counts in self._counts.items():
            buckets = list(zip(bounds, np.cumsum(counts).tolist(), strict=True))
            family.add_metric([label], buckets, self._sums[label])
        yield family
