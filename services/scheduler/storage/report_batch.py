"""What workers tell of their attempts, many reports in one transaction, each fenced by its attempt."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from services.common.db.clock import DatabaseClock
from services.common.ids import is_id
from services.scheduler.domain.events import Output, Progressed, StepCompleted
from services.scheduler.domain.run import Run, output_place
from services.scheduler.domain.task import State
from services.scheduler.domain.worker import (
    CompletionReport,
    FailureReport,
    OutputReport,
    ProgressReport,
    Refusal,
    Report,
    StepReport,
    WaitReport,
)
from services.scheduler.storage.cascade import cascade
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.complete_batch import complete_unchanged
from services.scheduler.storage.journal import Journal
from services.scheduler.storage.result_payloads import ResultPayloads
from services.scheduler.storage.runs import Finished, lock_runs, read_finished
from services.scheduler.storage.tell_parents import tell_before_the_end


async def handle_reports(
    connection: asyncpg.Connection, clock: DatabaseClock, log: ChangeLog, reports: Sequence[Report]
) -> list[Refusal | None]:
    """Handles the reports in order, in the caller's transaction; gives each its refusal, or None."""
    done = await complete_unchanged(connection, clock, log, reports)
    if len(done) == len(reports):
        await log.write(connection)
        return [None] * len(reports)
    named = {report.task_id for place, report in enumerate(reports) if place not in done and is_id(report.task_id)}
    runs, now = await lock_runs(connection, named)
    finished = await read_finished(connection, gone) if (gone := named - runs.keys()) else {}
    journal = await Journal.open(
        connection, [(runs[r.task_id], step) for r in reports if r.task_id in runs and (step := _step_of(r))]
    )
    payloads = await ResultPayloads.lock(connection, reports, runs)
    ending = {report.task_id for report in reports if isinstance(report, CompletionReport | FailureReport)}
    await tell_before_the_end(connection, log, (runs[task_id] for task_id in ending & runs.keys()), now)
    ended: list[Run] = []
    answers: list[Refusal | None] = []
    for place, report in enumerate(reports):
        if place in done:
            answers.append(None)
            continue
        found = runs.get(report.task_id)
        if found is None and report.task_id not in named:
            answers.append(Refusal("INVALID_ARGUMENT", f"{report.task_id!r} is not a task id; send the one of the lease."))
        elif found is None:
            answers.append(_answer_ended(report, finished.get(report.task_id)))
        elif report.tenant_id is not None and found.tenant_id != report.tenant_id:
            answers.append(_stale(report))
        else:
            answers.append(_handle(report, found, now, journal, log, ended, payloads))
    await cascade(connection, log, ended, runs, "The parent task has ended.", "scheduler", now)
    await journal.write(connection)
    await payloads.write(connection)
    await log.write(connection)
    return answers


def _handle(
    report: Report,
    run: Run,
    now: datetime,
    journal: Journal,
    log: ChangeLog,
    ended: list[Run],
    payloads: ResultPayloads,
) -> Refusal | None:
    if _is_repeat(report, run):
        return None
    if run.stop_reason(report.attempt):
        return _stale(report)
    match report:
        case StepReport():
            run.hear(now)
            if journal.result(run, report.step_id) is None:
                number = log.add(run, StepCompleted(report.step_id, report.result), report.worker_id, now)
                journal.add(run, report.step_id, number, report.attempt, report.result)
        case ProgressReport():
            run.progress = report.progress
            log.add(run, Progressed(report.progress), report.worker_id, now)
        case OutputReport():
            return _put_out(report, run, now, log)
        case WaitReport():
            log.add(run, run.wait(report.signal, report.prompt, report.timeout, now), report.worker_id, now)
            if run.state is State.WAITING and journal.result(run, report.signal) is not None:
                log.add(run, run.ready(now), report.worker_id, now)
        case CompletionReport():
            result = payloads.result_of(report, run)
            if isinstance(result, Refusal):
                return result
            log.add(run, run.complete(result, now), report.worker_id, now)
        case FailureReport():
            change = run.fail_attempt(
                report.reason,
                report.message,
                now,
                retryable=report.retryable,
                back_off=report.back_off,
                delay=report.retry_delay,
            )
            log.add(run, change, report.worker_id, now)
    if run.state.ended:
        ended.append(run)
    return None


def _put_out(report: OutputReport, run: Run, now: datetime, log: ChangeLog) -> Refusal | None:
    """Adds a chunk of output that follows the last one: so none is lost by being told out of turn."""
    last = run.output - output_place(run.attempt, 0) if run.output is not None else 0
    # That of an attempt before is smaller than every place of this one.
    expected = max(last, 0) + 1
    if report.sequence != expected:
        return Refusal("INVALID_ARGUMENT", f"Output {report.sequence} of the attempt is out of turn; send {expected} first.")
    run.hear(now)
    run.output = output_place(run.attempt, report.sequence)
    log.add(run, Output(report.sequence, report.text), report.worker_id, now)
    return None


def _step_of(report: Report) -> str:
    """The step or signal that a report is about."""
    match report:
        case StepReport():
            return report.step_id
        case WaitReport():
            return report.signal
    return ""


def _answer_ended(report: Report, finished: Finished | None) -> Refusal | None:
    """None when this is what ended the task, told once more because its acknowledgement was lost."""
    if finished is None or report.tenant_id not in (None, finished.tenant_id):
        return _stale(report)
    return None if _ended_it(report, finished.state, finished.attempt, finished.error_reason) else _stale(report)


def _is_repeat(report: Report, run: Run) -> bool:
    """Whether this is what ended the attempt, told once more because its acknowledgement was lost."""
    if isinstance(report, FailureReport | WaitReport) and run.attempt == report.attempt and run.state in _BETWEEN:
        return True
    if isinstance(report, OutputReport):
        # Of a task that has ended nobody knows how much it put out, so that is so at once, and not only from the next commit on.
        told = (run.output or 0) >= output_place(report.attempt, report.sequence)
        return told and run.attempt == report.attempt and not run.state.ended
    return _ended_it(report, run.state, run.attempt, run.error_reason)


_BETWEEN = (State.PENDING, State.SCHEDULED, State.WAITING)
"""states between two attempts."""


def _ended_it(report: Report, state: State, attempt: int, error_reason: str | None) -> bool:
    if attempt != report.attempt:
        return False
    match report:
        case CompletionReport():
            return state is State.COMPLETED
        case FailureReport():
            return state is State.FAILED and error_reason == report.reason
    return False


def _stale(report: Report) -> Refusal:
    return Refusal("STALE_ATTEMPT", f"Attempt {report.attempt} of the task is over; stop working on it and drop its result.")
