"""The sum of metrics."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from services.monitor.adapters.metrics import merge

ONE = """# HELP calls_total Calls.
# TYPE calls_total counter
calls_total{method="get"} 2.0
calls_total{method="post"} 1.0
# TYPE calls_created gauge
calls_created{method="get"} 1.7e9
# HELP took_seconds Time.
# TYPE took_seconds histogram
took_seconds_bucket{le="1.0"} 1.0
took_seconds_bucket{le="+Inf"} 2.0
took_seconds_count 2.0
took_seconds_sum 3.5
# TYPE process_open_fds gauge
process_open_fds 10.0
"""
TWO = ONE.replace("} 2.0", "} 5.0").replace("fds 10", "fds 20")


def samples(text: bytes) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_counters_and_histograms_are_added_by_name_and_labels() -> None:
    merged = samples(merge({"a": ONE, "b": TWO}))
    assert merged["calls_total[('method', 'get')]"] == 7
    assert merged["calls_total[('method', 'post')]"] == 2
    assert merged["took_seconds_bucket[('le', '+Inf')]"] == 7
    assert merged["took_seconds_sum[]"] == 7


def test_what_belongs_to_one_process_keeps_its_name() -> None:
    merged = samples(merge({"a": ONE, "b": TWO}))
    assert merged["process_open_fds[('mesh_process', 'a')]"] == 10
    assert merged["process_open_fds[('mesh_process', 'b')]"] == 20


def test_times_of_first_use_are_left_out() -> None:
    assert not any("_created" in name for name in samples(merge({"a": ONE})))


def test_a_process_that_does_not_answer_is_told_and_missing_from_the_sum() -> None:
    merged = samples(merge({"a": ONE, "b": None}))
    assert merged["guildmesh_up[('mesh_process', 'b')]"] == 0
    assert merged["guildmesh_up[('mesh_process', 'a')]"] == 1
    assert merged["calls_total[('method', 'get')]"] == 2
