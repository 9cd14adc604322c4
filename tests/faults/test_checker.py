"""The checker finds each kind of harm in a history made by hand, and nothing in a good one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.checker import KINDS, check
from tests.faults.evidence import Event, Evidence, QueueLimits, StateRecord, TaskRow
from tests.faults.history import FAIL, INFO, OK, Operation, Recorder, read


def operation(what: str, outcome: str, told: str = "", **asked: object) -> Operation:
    return Operation("client", what, outcome, 1.0, 2.0, asked, {"task_id": told} if told else {})


def event(task_id: str, number: int, kind: str, attempt: int = 1, detail: str = "") -> Event:
    return Event(task_id, number, kind, attempt, f"{task_id}/{number}/{kind}", detail)


def good() -> Evidence:
    """One task that was retried and completed, one that was cancelled while it waited, one create that nobody heard of again."""
    log = [
        event("a", 1, "created", 0),
        event("a", 2, "started", 1),
        event("a", 3, "step_completed", 1, "first"),
        event("a", 4, "retried", 1),
        event("a", 5, "started", 2),
        event("a", 6, "completed", 2),
        event("b", 1, "created", 0),
        event("b", 2, "cancelled", 0),
        replace(event("e", 1, "created", 0), due=10.0),
        replace(event("e", 2, "ready", 0), time=10.5),
        event("e", 3, "started", 1),
        replace(event("e", 4, "retried", 1), due=20.0),
        replace(event("e", 5, "ready", 1), time=20.0),
        event("e", 6, "started", 2),
        replace(event("e", 7, "waiting", 2), due=1e-9),
        replace(event("e", 8, "signalled", 2, "go"), value="yes"),
        replace(event("e", 9, "ready", 2), time=30.0),
        event("e", 10, "started", 3),
        event("e", 11, "failed", 3),
        replace(event("f", 1, "created", 0), due=1e-9, needs=("g",)),
        replace(event("f", 2, "ready", 0), time=41.0),
        replace(event("f", 3, "started", 1), time=42.0),
        event("f", 4, "failed", 1),
        event("g", 1, "created", 0),
        event("g", 2, "started", 1),
        replace(event("g", 3, "failed", 1), time=40.0),
    ]
    return Evidence(
        history=[
            operation("create", INFO, tag="A"),
            operation("create", OK, "a", tag="A"),
            operation("create", OK, "b", tag="B"),
            operation("create", INFO, tag="C"),
            operation("create", FAIL, tag="D"),
            operation("create", OK, "e", tag="E"),
            operation("create", OK, "f", tag="F"),
            operation("create", OK, "g", tag="G"),
            operation("signal", OK, task_id="e", signal="go", value="yes"),
            operation("step", OK, task_id="a", attempt=1, step_id="first"),
            operation("complete", FAIL, task_id="a", attempt=1, result="r1"),
            operation("complete", INFO, task_id="a", attempt=2, result="r2"),
            operation("complete", OK, task_id="a", attempt=2, result="r2"),
            operation("cancel", OK, task_id="b"),
            operation("cancel", FAIL, task_id="a"),
        ],
        tasks={
            "a": TaskRow("a", "A", "COMPLETED", 2, 6, "r2"),
            "b": TaskRow("b", "B", "CANCELLED", 0, 2),
            "e": TaskRow("e", "E", "FAILED", 3, 11),
            "f": TaskRow("f", "F", "FAILED", 1, 4),
            "g": TaskRow("g", "G", "FAILED", 1, 3),
        },
        table=log,
        # The relay published a batch once more, in full.
        kafka=[*log[:3], *log[:6], *log[6:]],
        state=[
            StateRecord("a", "RUNNING", 3, "s3"),
            StateRecord("a", "RUNNING", 3, "s3"),
            StateRecord("a", "COMPLETED", 6, "s6"),
            StateRecord("b", "CANCELLED", 2, "s2"),
            StateRecord("e", "FAILED", 11, "s11"),
            StateRecord("f", "FAILED", 4, "s4"),
            StateRecord("g", "FAILED", 3, "s3"),
        ],
        watches=[log[:6], log[6:8], log[:2]],
    )


def test_a_good_history_has_no_problem() -> None:
    assert check(good()) == []
    assert good().size() == {"operations": 15, "unknown": 3, "tasks": 5, "events": 26, "records": 36, "watched": 10, "limited": 0}


def without_task(evidence: Evidence) -> None:
    evidence.tasks = {name: row for name, row in evidence.tasks.items() if name != "b"}


def row(task_id: str, **changes: object) -> Callable[[Evidence], None]:
    def change(evidence: Evidence) -> None:
        evidence.tasks = {**evidence.tasks, task_id: replace(evidence.tasks[task_id], **changes)}  # type: ignore[arg-type]

    return change


def added(**tables: object) -> Callable[[Evidence], None]:
    def change(evidence: Evidence) -> None:
        for name, item in tables.items():
            setattr(evidence, name, [*getattr(evidence, name), item])

    return change


def more_tasks(*rows: TaskRow) -> Callable[[Evidence], None]:
    """Rows with the log and the records that belong to them."""

    def change(evidence: Evidence) -> None:
        for new in rows:
            mine = [event(new.task_id, 1, "created", 0), event(new.task_id, 2, "cancelled", 0)]
            evidence.tasks = {**evidence.tasks, new.task_id: new}
            evidence.table = [*evidence.table, *mine]
            evidence.kafka = [*(evidence.kafka or ()), *mine]
            evidence.state = [*(evidence.state or ()), StateRecord(new.task_id, new.state, new.last_number)]

    return change


def swapped(name: str, one: int, two: int) -> Callable[[Evidence], None]:
    def change(evidence: Evidence) -> None:
        items = list(getattr(evidence, name))
        items[one], items[two] = items[two], items[one]
        setattr(evidence, name, items)

    return change


def removed(name: str, place: int) -> Callable[[Evidence], None]:
    def change(evidence: Evidence) -> None:
        items = list(getattr(evidence, name))
        del items[place]
        setattr(evidence, name, items)

    return change


def put(name: str, place: int, item: object) -> Callable[[Evidence], None]:
    def change(evidence: Evidence) -> None:
        items = list(getattr(evidence, name))
        items[place] = item
        setattr(evidence, name, items)

    return change


def outbox(evidence: Evidence) -> None:
    evidence.outbox = 3


def limited(evidence: Evidence) -> None:
    evidence.limits = {"q": QueueLimits(max_running=0)}
    row("a", queue="q")(evidence)
    evidence.table = [replace(each, time=float(each.number)) if each.task_id == "a" else each for each in evidence.table]


def replay(task_id: str, origin: str) -> TaskRow:
    return TaskRow(task_id, "E", "CANCELLED", 0, 2, replay_of=origin)


def replays(*rows: TaskRow, asked: str = "e", told: str = "") -> Callable[[Evidence], None]:
    """Replays, and one answer."""

    def change(evidence: Evidence) -> None:
        more_tasks(*rows)(evidence)
        added(history=operation("replay", OK, told or rows[0].task_id, task_id=asked))(evidence)

    return change


def second_completion(evidence: Evidence) -> None:
    """A log with another completion at its end, seen on every channel."""
    again = event("a", 7, "completed", 2)
    evidence.table = [*evidence.table[:6], again, *evidence.table[6:]]
    evidence.kafka = [*(evidence.kafka or ()), again]
    row("a", last_number=7)(evidence)
    evidence.state = [*(evidence.state or ()), StateRecord("a", "COMPLETED", 7)]


def beside(*changes: tuple[str, str, str]) -> Callable[[Evidence], None]:
    """Task h, which had these events (type, detail, value) while it ran, on every channel."""

    def change(evidence: Evidence) -> None:
        made = [replace(event("h", 3 + n, kind, 1, detail), value=value) for n, (kind, detail, value) in enumerate(changes)]
        end = 3 + len(made)
        log = [event("h", 1, "created", 0), event("h", 2, "started", 1), *made, event("h", end, "failed", 1)]
        evidence.history = [*evidence.history, operation("create", OK, "h", tag="H")]
        evidence.tasks = {**evidence.tasks, "h": TaskRow("h", "H", "FAILED", 1, end)}
        evidence.table = [*evidence.table, *log]
        evidence.kafka = [*(evidence.kafka or ()), *log]
        evidence.state = [*(evidence.state or ()), StateRecord("h", "FAILED", end)]

    return change


def both(one: Callable[[Evidence], None], two: Callable[[Evidence], None]) -> Callable[[Evidence], None]:
    def change(evidence: Evidence) -> None:
        one(evidence)
        two(evidence)

    return change


CALLED, UNKNOWN = ("tool_called", "x/1", ""), ("tool_returned", "x/1", "TOOL_OUTCOME_UNKNOWN")
RETURNED = ("tool_returned", "x/1", "TOOL_OUTCOME_SUCCEEDED")
CHILD, CHILD_ENDED = ("child_created", "c", ""), ("child_ended", "c", "")


def test_what_happens_beside_a_run_is_no_problem() -> None:
    evidence = good()
    step = ("step_completed", "s", "")
    beside(CHILD, CALLED, ("output", "", ""), UNKNOWN, RETURNED, ("progressed", "", ""), CHILD_ENDED, step)(evidence)
    assert check(evidence) == []


BAD: dict[str, tuple[str, str, Callable[[Evidence], None]]] = {
    "a run of a tool returned that was never called": ("unordered", "h", beside(RETURNED)),
    "a run of a tool returned before it was called": ("unordered", "h", beside(RETURNED, CALLED)),
    "a run of a tool was called twice": ("doubled", "h", beside(CALLED, CALLED)),
    "a run of a tool returned twice": ("doubled", "h", beside(CALLED, RETURNED, RETURNED)),
    "a run of a tool is not known after all": ("doubled", "h", beside(CALLED, RETURNED, UNKNOWN)),
    "an acknowledged event of a tool is not in the log": (
        "lost",
        "a",
        added(history=operation("append", OK, task_id="a", change="tool_called", run="x/1")),
    ),
    "a refused event of a tool is in the log": (
        "phantom",
        "h",
        both(beside(CALLED), added(history=operation("append", FAIL, task_id="h", change="tool_called", run="x/1"))),
    ),
    "a subtask ended that was never created": ("unordered", "h", beside(CHILD_ENDED)),
    "a subtask ended twice": ("doubled", "h", beside(CHILD, CHILD_ENDED, CHILD_ENDED)),
    "an acknowledged task is not there": ("lost", "b", without_task),
    "an acknowledged task has not ended": ("lost", "b", row("b", state="PENDING")),
    "an acknowledged result is not kept": ("lost", "a", row("a", result="r9")),
    "an acknowledged result of a task that failed": ("lost", "a", row("a", state="FAILED")),
    "an acknowledged step is not in the log": ("lost", "a", put("table", 2, event("a", 3, "step_completed", 1, "other"))),
    "an acknowledged cancellation did not happen": ("lost", "b", row("b", state="COMPLETED")),
    "an event never came to Kafka": ("lost", "b", removed("kafka", 10)),
    "the newest state never came to Kafka": ("lost", "a", removed("state", 2)),
    "a task never came to the state topic": ("lost", "b", removed("state", 3)),
    "the log does not say how the task ended": ("lost", "a", put("table", 5, event("a", 6, "step_completed", 2))),
    "two tasks were told for a request": ("doubled", "b", added(history=operation("create", OK, "b", tag="A"))),
    "two tasks are there for a request": ("doubled", "c", more_tasks(TaskRow("c", "A", "CANCELLED", 0, 2))),
    "a task completed twice": ("doubled", "a", second_completion),
    "results of two attempts were accepted": (
        "doubled",
        "a",
        added(history=operation("complete", OK, task_id="a", attempt=1, result="r1")),
    ),
    "nobody asked for a task": ("phantom", "c", more_tasks(TaskRow("c", "nobody", "CANCELLED", 0, 2))),
    "a refused task is there": ("phantom", "c", more_tasks(TaskRow("c", "D", "CANCELLED", 0, 2))),
    "no worker told the result": ("phantom", "a", row("a", result="invented")),
    "a refused result is kept": ("phantom", "a", row("a", attempt=1, result="r1")),
    "an event of no task": ("phantom", "z", added(table=event("z", 1, "created", 0))),
    "Kafka has what the log has not": ("phantom", "b", added(kafka=event("b", 3, "created", 0))),
    "a watcher saw what the log has not": ("phantom", "b", added(watches=[event("b", 1, "failed", 0)])),
    "the state topic has a task that is not there": ("phantom", "z", added(state=StateRecord("z", "FAILED", 1))),
    "a stale attempt's result was accepted": (
        "unfenced",
        "a",
        added(history=operation("complete", OK, task_id="a", attempt=1, result="r1")),
    ),
    "the log has a stale attempt's step": ("unfenced", "a", put("table", 5, event("a", 6, "completed", 1))),
    "an attempt started while another ran": ("unfenced", "a", put("table", 3, event("a", 4, "started", 2))),
    "a step was kept after the attempt ended": ("unfenced", "a", put("table", 4, event("a", 5, "step_completed", 1, "late"))),
    "the log has a gap": ("unordered", "a", removed("table", 2)),
    "the log is not in order": ("unordered", "a", swapped("table", 2, 3)),
    "the log has a number twice": ("unordered", "a", put("table", 3, event("a", 3, "retried", 1))),
    "the log is longer than the task says": ("unordered", "a", row("a", last_number=5)),
    "Kafka has a gap": ("unordered", "b", removed("kafka", 9)),
    "Kafka is not in order": ("unordered", "a", swapped("kafka", 6, 7)),
    "Kafka repeats a number with another content": ("unordered", "a", put("kafka", 4, event("a", 2, "retried", 1))),
    "the state topic goes back": ("unordered", "a", put("state", 3, StateRecord("a", "RUNNING", 4, "s4"))),
    "a watcher misses a number": (
        "unordered",
        "b",
        added(watches=[event("b", 1, "created", 0), event("b", 3, "cancelled", 0)]),
    ),
    "a watcher sees a number twice": ("unordered", "b", added(watches=[event("b", 1, "created", 0)] * 2)),
    "an attempt started before its moment had come": (
        "early",
        "e",
        put("table", 9, event("e", 2, "started", 1)),
    ),
    "a moment was taken for come too early": ("early", "e", put("table", 9, replace(event("e", 2, "ready", 0), time=9.9))),
    "a task that waits for a signal started": ("early", "e", put("table", 16, event("e", 9, "started", 3))),
    "an acknowledged signal is not in the log": ("lost", "e", put("table", 15, event("e", 8, "signalled", 2, "other"))),
    "a signal came twice": ("doubled", "e", put("table", 16, event("e", 9, "signalled", 2, "go"))),
    "a retry did not wait": ("early", "e", put("table", 12, event("e", 5, "started", 2))),
    "it was ready though it did not wait": ("unordered", "e", put("table", 8, event("e", 1, "created", 0))),
    "a task was ready before its dependency had ended": (
        "early",
        "f",
        put("table", 20, replace(event("f", 2, "ready", 0), time=39.0)),
    ),
    "a task started though its dependency had not ended": ("early", "f", removed("table", 25)),
    "a task that depends on another started unready": ("early", "f", put("table", 20, event("f", 2, "started", 1))),
    "more ran than may": ("exceeded", "a", limited),
    "a failed task was replayed twice": ("doubled", "e", replays(replay("r", "e"), replay("s", "e"))),
    "a task that did not fail was replayed": ("phantom", "b", replays(replay("r", "b"), asked="b")),
    "nobody asked for a replay": ("phantom", "f", replays(replay("r", "e"), replay("s", "f"))),
    "an acknowledged replay is not there": ("lost", "e", replays(replay("r", "e"), told="z")),
    "an acknowledged signal has another value": (
        "lost",
        "e",
        added(history=operation("signal", OK, task_id="e", signal="go", value="other")),
    ),
    "the outbox is not empty": ("left behind", "-", outbox),
    "a lease is left": ("left behind", "b", row("b", leased=True)),
    "a task that nobody heard of has not ended": ("left behind", "c", more_tasks(TaskRow("c", "C", "PENDING", 0, 2))),
}


@pytest.mark.parametrize("name", BAD)
def test_each_harm_is_found_with_its_kind_and_its_task(name: str) -> None:
    kind, task_id, spoil = BAD[name]
    evidence = good()
    spoil(evidence)
    found = check(evidence)
    assert (kind, task_id) in {(problem.kind, problem.task_id) for problem in found}, [str(problem) for problem in found]


def test_a_replay_is_no_second_task_for_its_request() -> None:
    evidence = good()
    replays(replay("r", "e"))(evidence)
    assert check(evidence) == []


def test_every_kind_is_tried() -> None:
    assert {kind for kind, _, _ in BAD.values()} == set(KINDS)


def test_a_killed_writer_leaves_operations_that_nobody_knows_the_end_of(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    recorder = Recorder(file, "worker-1")
    first = recorder.invoke("create", tag="A")
    recorder.invoke("create", tag="B")
    recorder.outcome(first, OK, task_id="a")
    recorder.note("lease", task_id="a", attempt=1)
    recorder.close()
    found = read([file])
    assert [(item.what, item.outcome, item.asked.get("tag")) for item in found] == [
        ("create", OK, "A"),
        ("create", INFO, "B"),
        ("lease", OK, None),
    ]
    assert found[0].told == {"task_id": "a"}
    assert found[0].ended is not None
    assert found[0].ended >= found[0].begun
    assert json.loads(file.read_text().splitlines()[0])["who"] == "worker-1"
