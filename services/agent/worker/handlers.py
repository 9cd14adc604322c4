"""Tasks of the scheduler as attempts of the domain, done on behalf of the task's creator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Literal

import structlog
from guildmesh_client.worker import Dependency, JsonValue, Task, TaskFailed
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.agent.domain.work import RUN_SCENARIO, Attempt, EndedTask, WorkFailed
from services.common.context import Principal, acting_as
from services.common.errors import DomainError
from services.common.json_values import JsonObject

Work = Callable[[str, Attempt], Awaitable[JsonObject]]
"""Takes the tenant and the attempt, gives the task's result."""

_tracer = trace.get_tracer("guildmesh.agent")
_log = structlog.get_logger(__name__)
# What another attempt may find over.
_PASSING = frozenset({"UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL"})


@contextmanager
def on_behalf_of_creator(task: Task) -> Iterator[None]:
    """Makes all calls of a run as the creator of its task may: this worker has tasks of every tenant, and is of none."""
    created_by = task.message.created_by
    kind: Literal["user", "service"] = "service" if created_by.startswith("service:") else "user"
    with acting_as(Principal(created_by, task.message.tenant_id, kind=kind), task.traceparent or None):
        yield


def handler(work: Work) -> Callable[[Task], Awaitable[JsonValue]]:
    """The worker library's function for a kind of task; the worker runs it within `on_behalf_of_creator`."""

    async def handle(task: Task) -> JsonValue:
        message = task.message
        parent = TraceContextTextMapPropagator().extract({"traceparent": task.traceparent}) if task.traceparent else None
        operation = "invoke_workflow" if message.kind == RUN_SCENARIO else "invoke_agent"
        name = message.labels.get("agent_id") or message.labels.get("scenario_id") or message.kind
        with (
            _tracer.start_as_current_span(f"{operation} {name}", context=parent) as span,
            structlog.contextvars.bound_contextvars(task_id=task.task_id, attempt=task.attempt, kind=message.kind),
        ):
            span.set_attribute("gen_ai.operation.name", operation)
            if "agent_id" in message.labels:
                span.set_attribute("gen_ai.agent.id", message.labels["agent_id"])
            return await _attempt(work, task)

    return handle


async def _attempt(work: Work, task: Task) -> JsonObject:
    started = monotonic()
    _log.info("attempt started")
    try:
        result = await work(task.message.tenant_id, _to_attempt(task))
    except WorkFailed as error:
        _log.warning("attempt failed", reason=error.reason, message=error.message, retryable=error.retryable)
        raise TaskFailed(error.reason, error.message, retryable=error.retryable) from error
    except DomainError as error:
        retryable = error.code in _PASSING
        _log.warning("attempt failed", reason=error.reason, message=error.message, retryable=retryable)
        raise TaskFailed(error.reason, error.message, retryable=retryable) from error
    _log.info("attempt completed", seconds=round(monotonic() - started, 3))
    return result


def _to_attempt(task: Task) -> Attempt:
    return Attempt(
        task_id=task.task_id,
        number=task.attempt,
        description=task.description,
        context=task.context,
        timeout_seconds=task.message.timeout.seconds,
        remaining_seconds=task.remaining,
        dependencies={name: _to_ended(dependency) for name, dependency in task.dependencies.items()},
        report_progress=task.progress,
        put_out=task.output,
    )


def _to_ended(dependency: Dependency) -> EndedTask:
    return EndedTask(
        dependency.task_id,
        dependency.state,
        result=None if dependency.result_omitted else dependency.result,
        error_reason=dependency.error.reason if dependency.error else "",
        error_message=dependency.error.message if dependency.error else "",
        result_omitted=dependency.result_omitted,
    )
