"""The sum of the metrics of all processes, in Prometheus' text format (requirement row 9)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping

import httpx
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

_TIMEOUT = 1.0
# A sum of these says nothing (start times) or hides what one looks for (memory of one process).
_PER_PROCESS = ("process_", "python_")
_PROCESS_LABEL = "mesh_process"


class MeshMetrics:
    """Fetches the metrics of every known process and adds them up."""

    def __init__(self, client: httpx.AsyncClient, addresses: Mapping[str, Iterable[str]]) -> None:
        """`addresses` are host:port of the admin ports by kind of process."""
        self._client = client
        self._targets = [
            (process if number == 0 else f"{process}-{number + 1}", address)
            for process, known in addresses.items()
            for number, address in enumerate(known)
        ]

    async def __call__(self) -> tuple[str, bytes]:
        """Content type and text; a process that does not answer is missing from the sum and has guildmesh_up 0."""
        texts = dict(await asyncio.gather(*(self._fetch(process, address) for process, address in self._targets)))
        texts["monitor"] = generate_latest().decode()
        return CONTENT_TYPE_LATEST, merge(texts)

    async def _fetch(self, process: str, address: str) -> tuple[str, str | None]:
        try:
            response = await self._client.get(f"http://{address}/metrics", timeout=_TIMEOUT)
            response.raise_for_status()
        except httpx.HTTPError:
            return process, None
        return process, response.text


def merge(texts: Mapping[str, str | None]) -> bytes:
    """Adds up the metrics of processes: one sample for each name and set of labels; None is a process that did not answer."""
    up = GaugeMetricFamily("guildmesh_up", "Whether a process of the mesh answers for its metrics.", labels=[_PROCESS_LABEL])
    families: dict[str, Metric] = {}
    sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for process, text in sorted(texts.items()):
        up.add_metric([process], 0 if text is None else 1)
        for family in text_string_to_metric_families(text or ""):
            if family.name.endswith("_created"):
                # When a process first counted; it means nothing for a sum.
                continue
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            samples = sums.setdefault(family.name, {})
            for sample in family.samples:
                labels = dict(sample.labels)
                if family.name.startswith(_PER_PROCESS):
                    labels[_PROCESS_LABEL] = process
                key = sample.name, tuple(sorted(labels.items()))
                samples[key] = samples.get(key, 0.0) + sample.value
    for name, family in families.items():
        for (sample_name, pairs), value in sums[name].items():
            family.add_sample(sample_name, dict(pairs), value)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed([up, *families.values()]))
    return generate_latest(registry)


class _Fixed(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families
