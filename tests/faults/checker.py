"""Tells what went wrong, from what was asked for, what was told, and what is there afterwards. No I/O: see cluster.py for that.

The kinds of a problem:

* lost: acknowledged, and not there, not ended, or not published,
* doubled: a task that ended twice, or two tasks for one request id,
* phantom: a task, a result or an event that nobody asked for,
* unfenced: something of a stale attempt was accepted,
* unordered: event numbers with a gap, or going back beyond exact repeats (which only Kafka may have),
* early: started, or said to be ready, before what it waits for,
* exceeded: more ran or started than the limits, the rate or a pause of its queue allow,
* left behind: rows of the outbox, leases or unended tasks after everything has become quiet.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tests.faults.evidence import Event, Evidence, Problem, StateRecord, TaskRow
from tests.faults.history import FAIL, INFO, OK, Operation
from tests.faults.limit_checker import attempts_apart, limits_kept
from tests.faults.replay_checker import replayed_once

KINDS = ("lost", "doubled", "phantom", "unfenced", "unordered", "early", "exceeded", "left behind")
TABLE, KAFKA = "table", "kafka"
LAST = {"completed": "COMPLETED", "failed": "FAILED", "cancelled": "CANCELLED"}
ENDED = frozenset(LAST.values())
BESIDE = frozenset({"signalled", "child_created", "child_ended", "tool_called", "tool_returned"})
"""events that leave the state of their task as it is, whichever it is."""
WHILE_RUNNING = frozenset({"step_completed", "progressed", "output"})
PAIRS = {"tool_returned": "tool_called", "child_ended": "child_created"}
"""what ends, and by what it began."""


def check(evidence: Evidence) -> list[Problem]:
    """Everything that is wrong; nothing when all is well."""
    log = _by_task(evidence.table)
    problems = [
        *_creates(evidence),
        *_reports(evidence, log),
        *_cancels(evidence),
        *_logs(evidence, log),
        *_dependencies(log),
        *replayed_once(evidence),
        *attempts_apart(evidence),
        *limits_kept(evidence, log),
        *_left(evidence),
    ]
    if evidence.kafka is not None:
        problems += _published(evidence.kafka, log)
    if evidence.state is not None:
        problems += _states(evidence.state, evidence.tasks)
    for watch in evidence.watches:
        problems += _watched(watch, log)
    return problems


def _creates(evidence: Evidence) -> Iterator[Problem]:
    asked: dict[str, list[Operation]] = defaultdict(list)
    for operation in evidence.history:
        if operation.what == "create":
            asked[operation.asked["tag"]].append(operation)
    for tag, operations in asked.items():
        told = {operation.told["task_id"] for operation in operations if operation.outcome == OK}
        for task_id in told:
            if len(told) > 1:
                yield Problem("doubled", task_id, f"one of {len(told)} tasks that were told for the request {tag}")
            row = evidence.tasks.get(task_id)
            if row is None:
                yield Problem("lost", task_id, f"created for {tag} and acknowledged, and there is no such task")
            elif row.state not in ENDED:
                yield Problem("lost", task_id, f"acknowledged, and still {row.state} when all is quiet")
    created = [row for row in evidence.tasks.values() if not row.replay_of]
    tags = Counter(row.tag for row in created)
    for row in created:
        operations = asked.get(row.tag, [])
        if not operations:
            yield Problem("phantom", row.task_id, f"nobody asked for {row.tag!r}")
        elif all(operation.outcome == FAIL for operation in operations):
            yield Problem("phantom", row.task_id, f"{row.tag} was refused, and is there")
        if tags[row.tag] > 1:
            yield Problem("doubled", row.task_id, f"one of {tags[row.tag]} tasks for the request {row.tag}")
        if row.state not in ENDED and not any(operation.outcome == OK for operation in operations):
            yield Problem("left behind", row.task_id, f"{row.state} when all is quiet")


def _reports(evidence: Evidence, log: Mapping[str, Sequence[Event]]) -> Iterator[Problem]:
    completions: dict[str, list[Operation]] = defaultdict(list)
    for operation in evidence.history:
        if operation.what == "complete":
            completions[operation.asked["task_id"]].append(operation)
        elif operation.what == "step" and operation.outcome == OK:
            task_id, step_id = operation.asked["task_id"], operation.asked["step_id"]
            if not any(event.detail == step_id for event in log.get(task_id, ()) if event.type == "step_completed"):
                yield Problem("lost", task_id, f"the step {step_id} was acknowledged and is not in the log")
        elif operation.what == "append" and operation.outcome != INFO:
            task_id, change, run = operation.asked["task_id"], operation.asked["change"], operation.asked["run"]
            there = any(event.type == change and event.detail == run for event in log.get(task_id, ()))
            if operation.outcome == OK and not there:
                yield Problem("lost", task_id, f"{change} of {run} was acknowledged and is not in the log")
            elif operation.outcome == FAIL and there:
                yield Problem("phantom", task_id, f"{change} of {run} was refused, and is in the log")
        elif operation.what == "signal" and operation.outcome == OK:
            task_id, signal = operation.asked["task_id"], operation.asked["signal"]
            kept = [event.value for event in log.get(task_id, ()) if event.type == "signalled" and event.detail == signal]
            if operation.asked["value"] not in kept:
                text = f"has another value than was acknowledged: {kept}" if kept else "was acknowledged and is not in the log"
                yield Problem("lost", task_id, f"the signal {signal} {text}")
    for task_id, operations in completions.items():
        row = evidence.tasks.get(task_id)
        accepted = [operation for operation in operations if operation.outcome == OK]
        attempts = {operation.asked["attempt"] for operation in accepted}
        if len(attempts) > 1:
            yield Problem("doubled", task_id, f"the results of the attempts {sorted(attempts)} were all accepted")
        for operation in accepted:
            attempt = operation.asked["attempt"]
            if row is None or row.state != "COMPLETED":
                state = "not there" if row is None else row.state
                yield Problem("lost", task_id, f"the result of attempt {attempt} was acknowledged, and the task is {state}")
            elif row.attempt != attempt:
                yield Problem("unfenced", task_id, f"the result of attempt {attempt} was accepted, the task is at {row.attempt}")
            elif row.result != operation.asked["result"]:
                yield Problem("lost", task_id, f"the result of attempt {attempt} was acknowledged, and another one is kept")
    for row in evidence.tasks.values():
        if row.state != "COMPLETED":
            continue
        told = {
            (operation.asked["attempt"], operation.asked["result"])
            for operation in completions.get(row.task_id, ())
            # One that was refused must not be kept.
            if operation.outcome != FAIL
        }
        if (row.attempt, row.result) not in told:
            yield Problem("phantom", row.task_id, f"no worker told the result of attempt {row.attempt}, or it was refused")


def _cancels(evidence: Evidence) -> Iterator[Problem]:
    for operation in evidence.history:
        if operation.what == "cancel" and operation.outcome == OK:
            task_id = operation.asked["task_id"]
            row = evidence.tasks.get(task_id)
            if row is None or row.state != "CANCELLED":
                state = "not there" if row is None else row.state
                yield Problem("lost", task_id, f"its cancellation was acknowledged, and it is {state}")


def _logs(evidence: Evidence, log: Mapping[str, Sequence[Event]]) -> Iterator[Problem]:
    for task_id in log.keys() - evidence.tasks.keys():
        yield Problem("phantom", task_id, "there are events of it and no task")
    for row in evidence.tasks.values():
        yield from _life(row, log.get(row.task_id, ()))


def _life(row: TaskRow, events: Sequence[Event]) -> Iterator[Problem]:
    task_id = row.task_id
    numbers = [event.number for event in events]
    if numbers != list(range(1, len(numbers) + 1)):
        yield Problem("unordered", task_id, f"the log has the numbers {_short(numbers)}")
    if row.last_number != (max(numbers) if numbers else 0):
        yield Problem("unordered", task_id, f"its last number is {row.last_number}, and the log has {_short(numbers)}")
    ends = [event.type for event in events if event.type in LAST]
    if len(ends) > 1:
        yield Problem("doubled", task_id, f"it ended {len(ends)} times: {ends}")
    if events and events[0].type != "created":
        yield Problem("unordered", task_id, f"its first event is {events[0].type}")
    if [event.type for event in events].count("created") > 1:
        yield Problem("doubled", task_id, "it was created twice")
    last = LAST.get(events[-1].type) if events else None
    if last != (row.state if row.state in ENDED else None):
        text = f"it is {row.state}, and its last event is {events[-1].type if events else 'missing'}"
        yield Problem("lost" if row.state in ENDED else "unordered", task_id, text)
    yield from _attempts(task_id, events)
    yield from _pairs(task_id, events)


def _attempts(task_id: str, events: Sequence[Event]) -> Iterator[Problem]:
    """Each start is the next attempt, and nothing of an older one comes after it."""
    attempt, running, due = 0, False, 0.0
    for event in events:
        if event.type == "started":
            if due:
                yield Problem("early", task_id, f"attempt {event.attempt} started, and its moment had not come")
            if running or event.attempt != attempt + 1:
                yield Problem("unfenced", task_id, f"attempt {event.attempt} started while {attempt} was the newest")
            attempt, running = event.attempt, True
            continue
        if event.attempt != attempt:
            yield Problem(
                "unfenced", task_id, f"{event.type} of attempt {event.attempt} is number {event.number}, after {attempt}"
            )
        elif event.type in ("completed", "step_completed", "retried", "waiting") and not running:
            yield Problem("unfenced", task_id, f"{event.type} is number {event.number}, when no attempt ran")
        if event.type == "ready" and not due:
            yield Problem("unordered", task_id, f"number {event.number} is ready, and it waited for nothing")
        elif event.type == "ready" and event.time < due:
            yield Problem("early", task_id, f"it was ready {due - event.time:.3f} s before its moment")
        if event.type == "signalled" and [each.detail for each in events if each.type == "signalled"].count(event.detail) > 1:
            yield Problem("doubled", task_id, f"number {event.number} is the signal {event.detail} once more")
        if event.type not in BESIDE:
            due = event.due
        running = running and (event.type in BESIDE or event.type in WHILE_RUNNING)


def _pairs(task_id: str, events: Sequence[Event]) -> Iterator[Problem]:
    """What ends in a log has begun there: a run of a tool, a subtask. Both come once, but for the outcome after an UNKNOWN."""
    open_, over = set(), set()
    for event in events:
        if event.type in PAIRS:
            begun = (PAIRS[event.type], event.detail)
            if begun in over:
                yield Problem("doubled", task_id, f"number {event.number} is {event.type} of {event.detail} once more")
            elif begun not in open_:
                yield Problem(
                    "unordered", task_id, f"number {event.number} is {event.type} of {event.detail}, which has not begun"
                )
            if event.value != "TOOL_OUTCOME_UNKNOWN":
                over.add(begun)
        elif event.type in PAIRS.values():
            if (event.type, event.detail) in open_:
                yield Problem("doubled", task_id, f"number {event.number} is {event.type} of {event.detail} once more")
            open_.add((event.type, event.detail))


def _dependencies(log: Mapping[str, Sequence[Event]]) -> Iterator[Problem]:
    """Nothing is ready before the last of what it depends on has ended."""
    for task_id, events in log.items():
        needs = events[0].needs if events else ()
        begun = next((event for event in events if event.type in ("ready", "started")), None)
        if begun is None:
            continue
        for needed in needs:
            end = next((event for event in log.get(needed, ()) if event.type in LAST), None)
            if end is None or end.time > begun.time:
                when = "had not ended" if end is None else f"ended {end.time - begun.time:.3f} s later"
                yield Problem("early", task_id, f"it was {begun.type}, and its dependency {needed} {when}")


def _left(evidence: Evidence) -> Iterator[Problem]:
    if evidence.outbox:
        yield Problem("left behind", "-", f"{evidence.outbox} rows of the outbox")
    for row in evidence.tasks.values():
        if row.leased:
            yield Problem("left behind", row.task_id, f"a lease of a task that is {row.state}")


def _published(kafka: Sequence[Event], log: Mapping[str, Sequence[Event]]) -> Iterator[Problem]:
    for task_id, events in _by_task(kafka).items():
        kept = {event.number: event.digest for event in log.get(task_id, ())}
        seen: dict[int, str] = {}
        newest = 0
        for event in events:
            if event.number in seen:
                if seen[event.number] != event.digest:
                    yield Problem("unordered", task_id, f"number {event.number} came to Kafka twice, with another content")
                continue
            if event.number != newest + 1:
                yield Problem("unordered", task_id, f"number {event.number} came to Kafka after {newest}")
            newest = max(newest, event.number)
            seen[event.number] = event.digest
            if kept.get(event.number) != event.digest:
                yield Problem("phantom", task_id, f"number {event.number} on Kafka is not what the log has")
    there = {(event.task_id, event.number) for event in kafka}
    for task_id, kept_events in log.items():
        missing = [event.number for event in kept_events if (task_id, event.number) not in there]
        if missing:
            yield Problem("lost", task_id, f"the numbers {_short(missing)} never came to Kafka")


def _states(state: Sequence[StateRecord], tasks: Mapping[str, TaskRow]) -> Iterator[Problem]:
    last: dict[str, StateRecord] = {}
    seen: dict[str, dict[int, str]] = defaultdict(dict)
    for record in state:
        before = last.get(record.task_id)
        repeat = seen[record.task_id].get(record.last_number) == record.digest
        if before is not None and record.last_number <= before.last_number and not repeat:
            text = f"the state topic went from number {before.last_number} back to {record.last_number}"
            yield Problem("unordered", record.task_id, text)
        seen[record.task_id][record.last_number] = record.digest
        last[record.task_id] = record
    for task_id in last.keys() - tasks.keys():
        yield Problem("phantom", task_id, "the state topic has a task that is not there")
    for row in tasks.values():
        newest = last.get(row.task_id)
        if newest is None:
            yield Problem("lost", row.task_id, "it never came to the state topic")
        elif (newest.state, newest.last_number) != (row.state, row.last_number):
            text = f"the state topic ends with {newest.state} at {newest.last_number}, it is {row.state} at {row.last_number}"
            yield Problem("lost", row.task_id, text)


def _watched(watch: Sequence[Event], log: Mapping[str, Sequence[Event]]) -> Iterator[Problem]:
    numbers = [event.number for event in watch]
    if not watch:
        return
    task_id = watch[0].task_id
    if numbers != list(range(1, len(numbers) + 1)):
        yield Problem("unordered", task_id, f"a watcher saw the numbers {_short(numbers)}")
    kept = {event.number: event.digest for event in log.get(task_id, ())}
    for event in watch:
        if kept.get(event.number) != event.digest:
            yield Problem("phantom", task_id, f"a watcher saw number {event.number}, which is not what the log has")


def _by_task(events: Iterable[Event]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        found[event.task_id].append(event)
    return found


def _short(numbers: Sequence[int]) -> str:
    text = ", ".join(map(str, numbers[:12]))
    return f"[{text}{', …' if len(numbers) > 12 else ''}]"
