"""What a run measures unless it is told otherwise."""

from __future__ import annotations

import pytest

from bench.options import parse


@pytest.mark.parametrize(
    ("arguments", "million"),
    [
        (["tasks"], True),
        (["tasks", "--quick"], False),
        (["tasks", "--only", "ours"], False),
        (["tasks", "--only", "ours", "--million"], True),
        (["tasks", "--no-million"], False),
    ],
)
def test_a_whole_run_has_a_million_finished_tasks(arguments: list[str], million: bool) -> None:
    assert parse(arguments).million is million


def test_quick_is_a_tenth_in_whole_batches() -> None:
    assert parse(["tasks", "--quick"]).sized(40_000) == 4_000
    assert parse(["tasks", "--quick"]).sized(2_500) == 200
    assert parse(["tasks"]).sized(150) == 100
