"""What a task function raises, and what the library raises."""

from __future__ import annotations

import re

_REASON = re.compile(r"^[A-Z][A-Z0-9_]{0,62}$")


class TaskFailed(Exception):
    """Raise it in a task function to fail the attempt.

    Args:
        reason: machine-readable, such as "TOOL_FAILED": at most 63 of A-Z, 0-9 and _.
        message: for people.
        retryable: whether the task may be tried again while attempts remain.
        retry_delay: seconds until then, instead of the back-off of the task's retry policy; such as a Retry-After that was heard.
    """

    def __init__(self, reason: str, message: str = "", *, retryable: bool = False, retry_delay: float | None = None) -> None:
        super().__init__(f"{reason}: {message}" if message else reason)
        if not _REASON.match(reason):
            raise ValueError(f"reason {reason!r} must match {_REASON.pattern}")
        self.reason = reason
        self.message = message
        self.retryable = retryable
        self.retry_delay = retry_delay


class Parked(BaseException):
    """Ends an attempt that waits for a signal: let it through. No Exception, so that `except Exception` does not hold it."""

    def __init__(self, signal: str, prompt: str, timeout: float | None) -> None:
        super().__init__(f"waits for the signal {signal!r}")
        self.signal = signal
        self.prompt = prompt
        self.timeout = timeout


class StepRefused(Exception):
    """The scheduler did not take a step: this attempt is over, or the step's result is not one it accepts."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class WorkerRefused(Exception):
    """The scheduler does not let this worker in; trying again would not help."""


class ResultOmitted(Exception):
    """The result of a dependency did not fit into the lease of the task, or is no longer kept."""

    def __init__(self, task_id: str) -> None:
        super().__init__(
            f"the result of the dependency {task_id} is not in the lease; `await task.result_of(name)` reads it, while it is kept"
        )
        self.task_id = task_id
