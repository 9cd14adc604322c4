"""What the demo checks: that it passes what is right, and fails what is not."""

from __future__ import annotations

import base64
import copy
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from guildmesh.events.v1.task_event_pb2 import TaskEvent

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.fixture
def sales_report(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("sales_report")


@pytest.fixture
def watch_events(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("watch_events")


@pytest.fixture
def files(sales_report: Any) -> Any:
    return sales_report.load(EXAMPLES / "sales-report")


@pytest.fixture
def result(files: Any) -> dict[str, Any]:
    """A right result: the coder's code is run on all facts."""
    [code] = [step["tool"]["arguments"]["code"] for step in files.scenario["steps"] if "tool" in step]
    names: dict[str, Any] = {"arguments": {"csv": files.csv, "memories": [{"content": fact} for fact in files.facts]}}
    exec(code, names)  # our own file, not data
    figures = names["result"]
    report = " ".join(str(value) for value in figures.values())
    return {
        "success": True,
        "model_calls": 2,
        "output_tokens": 40,
        "result": {"figures": figures, "report": report, "explanation": "Because.", "comment": "Good."},
    }


def test_the_coders_code_and_the_demo_agree_on_the_figures(sales_report: Any, files: Any, result: dict[str, Any]) -> None:
    assert len(files.csv.splitlines()) == 201
    sales_report.check_result(result, files)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("result", "figures", "revenue"), "1.00", "the files say '119,435.80'"),
        (("result", "figures", "regions", "west", "reached"), "100.0%", "regions"),
        (("result", "figures", "best_month"), "2026-01", "best_month"),
        (("result", "report"), "200 orders", "the report lacks"),
        (("model_calls",), 0, "never called"),
        (("output_tokens",), 0, "never called"),
        (("result", "comment"), "  ", "no comment"),
    ],
)
def test_the_demo_fails_on_a_wrong_figure_or_without_a_model(
    sales_report: Any, files: Any, result: dict[str, Any], path: tuple[str, ...], value: Any, words: str
) -> None:
    wrong = copy.deepcopy(result)
    target = wrong
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
    with pytest.raises(sales_report.Mismatch, match=words):
        sales_report.check_result(wrong, files)


def event(task_id: str, number: int, change: str, parent: str = "") -> TaskEvent:
    made = TaskEvent(task_id=task_id, number=number, parent_task_id=parent)
    getattr(made, change).SetInParent()
    return made


def test_the_run_has_ended_when_it_and_all_its_steps_have(watch_events: Any) -> None:
    log = watch_events.EventLog("run")
    for each in (event("run", 1, "created"), event("step", 1, "created", "run"), event("run", 2, "completed")):
        assert log.add(each)
    assert not log.ended
    assert log.add(event("step", 2, "completed", "run"))
    assert log.ended
    assert (log.count, log.tasks, log.completed_steps) == (4, 2, 1)
    log.check_complete(["step"])


def test_events_of_other_runs_and_repeats_are_not_shown(watch_events: Any) -> None:
    log = watch_events.EventLog("run")
    assert log.add(event("other", 1, "created", "another run")) == ""
    assert log.add(event("run", 1, "created"))
    assert log.add(event("run", 1, "created")) == ""
    assert log.count == 1


@pytest.mark.parametrize("numbers", [[1, 3], [2, 1], [2], []])
def test_a_gap_or_a_late_event_is_told(watch_events: Any, numbers: list[int]) -> None:
    log = watch_events.EventLog("run")
    for number in numbers:
        log.add(event("run", number, "started"))
    with pytest.raises(watch_events.MissingEvents, match=r"not as 1\.\.N"):
        log.check_complete([])


def test_the_topic_is_that_of_all_or_the_tenants_own(watch_events: Any) -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"sub": "ada", "tenant": "acme"}).encode()).decode().rstrip("=")
    token = f"x.{claims}.x"
    assert watch_events.topic_of({}, token) == "guildmesh.task-events.v1"
    assert watch_events.topic_of({"KAFKA_TOPIC_PER_TENANT": "false", "GUILDMESH_TASK_EVENTS_TOPIC": "a.b"}, token) == "a.b"
    assert watch_events.topic_of({"KAFKA_TOPIC_PER_TENANT": "true"}, token) == "guildmesh.acme.task-events.v1"
