"""How a run of a function ended, as what is told of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as pb

from guildmesh_client.worker.errors import Parked, StepRefused, TaskFailed
from guildmesh_client.worker.json_values import JsonValue, TooLarge, put_value
from guildmesh_client.worker.reports import Report
from guildmesh_client.worker.task import Task

log = logging.getLogger(__name__)

_MOST_MESSAGE = 10_000


async def outcome(task: Task, function: Callable[[Task], Awaitable[JsonValue]]) -> Report | None:
    """Runs the function and says how it ended; None when there is nothing to tell, since the attempt is over."""
    try:
        await task.fetch()
        report = await _completion(task, await function(task))
    except asyncio.CancelledError:
        report = failure(task.task_id, task.attempt, "WORKER_STOPPED", "The worker stopped.", retryable=True)
    except Parked as parked:
        report = _wait(task, parked)
    except TaskFailed as error:
        report = _failed(task, error)
    except StepRefused as error:
        if error.reason == "STALE_ATTEMPT":
            return None
        report = failure(task.task_id, task.attempt, "INVALID_STEP", error.message, retryable=False)
    except Exception as error:
        log.exception("task %s attempt %d failed", task.task_id, task.attempt)
        report = failure(task.task_id, task.attempt, "WORKER_ERROR", f"{type(error).__name__}: {error}", retryable=True)
    # A stopped run tells nothing, unless it is this worker that stops.
    return report if task.stop_reason in ("", "WORKER_STOPPED") else None


def failure(task_id: str, attempt: int, reason: str, message: str, *, retryable: bool) -> pb.TaskFailure:
    """A failure with a message that a scheduler takes."""
    text = message.replace("\x00", "").encode("utf-8", "replace").decode()[:_MOST_MESSAGE]
    error = task_pb2.TaskError(reason=reason, message=text)
    return pb.TaskFailure(task_id=task_id, attempt=attempt, error=error, retryable=retryable)


async def _completion(task: Task, result: JsonValue) -> Report:
    completion = pb.TaskCompletion()
    # Set one by one, and the result where it belongs: arguments cost half as much again, and copy it.
    completion.task_id = task.task_id
    completion.attempt = task.attempt
    try:
        put_value(completion.result, result)
    except TooLarge:
        completion.ClearField("result")
        completion.result_payload = await task.upload(result)
    except ValueError as error:
        return failure(task.task_id, task.attempt, "INVALID_RESULT", str(error), retryable=False)
    return completion


def _failed(task: Task, error: TaskFailed) -> Report:
    report = failure(task.task_id, task.attempt, error.reason, error.message, retryable=error.retryable)
    if error.retry_delay is not None:
        report.retry_delay.FromNanoseconds(round(error.retry_delay * 1e9))
    return report


def _wait(task: Task, parked: Parked) -> Report:
    wait = pb.TaskWait(task_id=task.task_id, attempt=task.attempt, signal=parked.signal, prompt=parked.prompt)
    if parked.timeout is not None:
        wait.timeout.FromNanoseconds(round(parked.timeout * 1e9))
    return wait
