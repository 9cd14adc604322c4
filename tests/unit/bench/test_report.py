"""What the line of JSON says, and when a run does not count."""

from __future__ import annotations

import json

import pytest

from bench.report import Figures, Rates, percentile


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0, 6.0, 7.0, 8.0, 9.0, 10.0]

    assert percentile(values, 0.50) == 5.0
    assert percentile(values, 0.95) == 10.0
    assert percentile([3.0], 0.50) == 3.0


def test_the_ratios_compare_with_celery() -> None:
    figures = Figures(0.5, batch=Rates([18_000.0, 16_000.0]), kafka=Rates([6_400.0]), single=Rates([2_400.0]), celery=800.0)
    figures.latencies = [0.002] * 190 + [0.009] * 10
    figures.watched_latencies = [0.003] * 10

    line = json.loads(figures.line())

    assert line["batch_vs_celery"] == 21.25
    assert line["batch_to_kafka_vs_celery"] == 8.0
    assert line["single_vs_celery"] == 3.0
    assert (line["latency_p50_ms"], line["latency_p95_ms"], line["latency_watched_p50_ms"]) == (2.0, 2.0, 3.0)
    assert line["batch_runs_per_s"] == [18_000, 16_000]
    assert line["void"] is False


def test_what_was_not_measured_is_null() -> None:
    line = json.loads(Figures(0.5, batch=Rates([18_000.0])).line())

    assert line["batch_per_s"] == 18_000
    assert line["batch_vs_celery"] is None
    assert line["river_batch_per_s"] is None
    assert line["million_ratio"] is None


@pytest.mark.parametrize(("rate", "void"), [(699.9, True), (700.0, False)])
def test_a_run_on_a_busy_machine_is_void(rate: float, void: bool) -> None:
    assert Figures(0.5, celery=rate).void is void
