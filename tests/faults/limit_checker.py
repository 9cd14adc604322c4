"""What ran at once and what started, by the log and by the workers, against the limits, the rate and the pauses of queues.

By the log a task runs from its start to the event that ends the attempt. At a worker it runs as long as its function does: that
has to end before another may have its slot, but for an attempt that was cancelled, of which its worker hears afterwards.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.faults.evidence import Event, Evidence, Problem, QueueLimits
from tests.faults.history import OK, Operation

# The time of a task that starts when it is created is a reading of up to so long ago (services.common.db.clock).
_READ_BEFORE_SECONDS = 0.025
# What was decided may be written so much later: a transaction that holds the fence takes no longer (dispatch_owners).
_LATE_SECONDS = 2.5
# Histories and events have clocks of their own, which drift apart; a function that is stopped ends a moment later.
_DRIFT_SECONDS = 0.05


@dataclass(frozen=True)
class Span:
    """One attempt, from its start to its end, in seconds since 1970."""

    task_id: str
    attempt: int
    key: str
    start: float
    end: float
    cancelled: bool
    latest_start: float
    """when it may have started in truth."""


def limits_kept(evidence: Evidence, log: Mapping[str, Sequence[Event]]) -> Iterator[Problem]:
    """Everything that is wrong with what ran and started in queues with limits."""
    if not evidence.limits:
        return
    spans: dict[str, list[Span]] = defaultdict(list)
    for row in evidence.tasks.values():
        if row.queue in evidence.limits:
            spans[row.queue] += _spans(row.key, log.get(row.task_id, ()))
    for queue, found in spans.items():
        limits = evidence.limits[queue]
        yield from _exceeded(queue, limits, ((span.latest_start, span.end, span) for span in found), "by the leases")
        yield from _exceeded(queue, limits, _at_workers(evidence, found), "at workers")
        yield from _too_fast(queue, limits, found)
        yield from _unpaused(queue, found, evidence)


def attempts_apart(evidence: Evidence) -> Iterator[Problem]:
    """A function has ended before the next attempt of its task begins, at whatever worker."""
    attempts: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for operation, end in _runs(evidence):
        attempts[operation.asked["task_id"]].append((operation.begun, end, operation.asked["attempt"]))
    for task_id, runs in attempts.items():
        for (_, end, one), (begin, _, other) in pairwise(sorted(runs)):
            if begin < end - _DRIFT_SECONDS:
                text = f"attempt {other} began at a worker {end - begin:.3f} s before attempt {one} was over at another"
                yield Problem("exceeded", task_id, text)


def _spans(key: str, events: Sequence[Event]) -> Iterator[Span]:
    """The attempts of a task."""
    begun: Event | None = None
    for event in events:
        if event.type == "started":
            begun = event
        elif begun is not None and event.type not in ("step_completed", "signalled"):
            # It has started when it was created.
            late = _READ_BEFORE_SECONDS if begun.time == events[0].time else 0.0
            cancelled = event.type == "cancelled"
            yield Span(event.task_id, begun.attempt, key, begun.time, event.time, cancelled, begun.time + late)
            begun = None


def _at_workers(evidence: Evidence, spans: Iterable[Span]) -> Iterator[tuple[float, float, Span]]:
    """How long the functions of these attempts ran."""
    known = {(span.task_id, span.attempt): span for span in spans}
    for operation, ended in _runs(evidence):
        span = known.get((operation.asked["task_id"], operation.asked["attempt"]))
        if span is not None:
            end = ended + evidence.wall
            yield operation.begun + evidence.wall, min(end, span.end - _DRIFT_SECONDS) if span.cancelled else end, span


def _runs(evidence: Evidence) -> Iterator[tuple[Operation, float]]:
    """Functions, and when they ended: of a worker that was killed the last that is known of it."""
    last: dict[str, float] = {}
    for operation in evidence.history:
        last[operation.who] = max(last.get(operation.who, 0.0), operation.begun, operation.ended or 0.0)
    for operation in evidence.history:
        if operation.what == "run":
            yield operation, last[operation.who] if operation.ended is None else operation.ended


def _exceeded(queue: str, limits: QueueLimits, spans: Iterable[tuple[float, float, Span]], where: str) -> Iterator[Problem]:
    changes: list[tuple[float, int, Span]] = []
    for start, end, span in spans:
        if start < end:
            changes += [(start, 1, span), (end, 0, span)]
    running: Counter[str] = Counter()
    # What ends in the moment in which another starts has made room for it.
    for moment, begins, span in sorted(changes, key=lambda change: change[:2]):
        step = 1 if begins else -1
        running[""] += step
        if span.key:
            running[span.key] += step
        if begins and running[""] > limits.max_running:
            yield Problem("exceeded", span.task_id, f"{running['']} tasks of {queue} ran at once {where} at {moment:.3f}")
        if begins and span.key and limits.max_running_per_key is not None and running[span.key] > limits.max_running_per_key:
            text = f"{running[span.key]} tasks of key {span.key} of {queue} ran at once {where} at {moment:.3f}"
            yield Problem("exceeded", span.task_id, text)


def _too_fast(queue: str, limits: QueueLimits, spans: Iterable[Span]) -> Iterator[Problem]:
    """In no stretch of time did more start than a full bucket and what flowed into it meanwhile."""
    if limits.rate_per_second is None:
        return
    moments = sorted(span.start for span in spans)
    # The bucket, filled up by what a transaction may be late, as if each start had been as late as allowed.
    room = most = limits.rate_burst + limits.rate_per_second * _LATE_SECONDS
    before = moments[0] if moments else 0.0
    for moment in moments:
        room = min(most, room + (moment - before) * limits.rate_per_second) - 1
        before = moment
        if room < 0:
            yield Problem("exceeded", "-", f"more tasks of {queue} started than its rate allows, at {moment:.3f}")
            return


def _unpaused(queue: str, spans: Iterable[Span], evidence: Evidence) -> Iterator[Problem]:
    for begin, end in pauses_of(queue, evidence.history):
        first, last = begin + evidence.wall + _DRIFT_SECONDS, end + evidence.wall - _DRIFT_SECONDS
        for span in spans:
            if first < span.start and span.latest_start < last:
                yield Problem("exceeded", span.task_id, f"it started {span.start - first:.3f} s into a pause of {queue}")


def pauses_of(queue: str, history: Sequence[Operation]) -> Iterator[tuple[float, float]]:
    """From each answer that said that a queue is paused to the first that asks for it to go on, by the clock of histories."""
    begin: float | None = None
    for operation in history:
        if operation.asked.get("queue") != queue:
            continue
        if operation.what == "pause" and operation.outcome == OK and begin is None:
            begin = operation.ended
        elif operation.what == "resume" and begin is not None:
            yield begin, operation.begun
            begin = None
