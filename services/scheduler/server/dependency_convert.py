"""Between TaskDependency, TaskDependencyOutcome and the domain."""

from __future__ import annotations

from collections.abc import Sequence

from guildmesh.scheduler.v1 import task_pb2 as pb
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb

from services.common.errors import InvalidRequest
from services.scheduler.domain.dependency import Dependency, FailurePolicy, Outcome
from services.scheduler.domain.payload import is_payload
from services.scheduler.server.payload_convert import payload_id_in


def dependencies_of(task: pb.Task) -> tuple[Dependency, ...]:
    """What a task depends on, with the defaults, which the message gets, too; raises InvalidRequest for what comes twice."""
    if not task.dependencies:
        return ()
    found = []
    for message in task.dependencies:
        message.task_id = message.task_id.lower()
        message.name = message.name or message.task_id
        message.failure_policy = message.failure_policy or pb.DEPENDENCY_FAILURE_POLICY_FAIL
        found.append(Dependency(message.task_id, message.name, FailurePolicy(message.failure_policy)))
    check_unique("task.dependencies", found)
    return tuple(found)


def check_unique(field: str, dependencies: Sequence[Dependency]) -> None:
    """Raises InvalidRequest when one of the dependencies of a task, in this field, is there twice or is named as another."""
    for what, values in (
        ("task_id", [dependency.task_id for dependency in dependencies]),
        ("name", [dependency.name for dependency in dependencies]),
    ):
        if len(set(values)) < len(values):
            twice = next(value for place, value in enumerate(values) if value in values[:place])
            raise InvalidRequest([(field, f"must have each {what} once, and has {twice!r} twice")])


def outcome_message(outcome: Outcome) -> worker_pb.TaskDependencyOutcome:
    """The end of a dependency, as a worker is told."""
    message = worker_pb.TaskDependencyOutcome(
        task_id=outcome.task_id, name=outcome.name, state=pb.TaskState.ValueType(outcome.state), result_omitted=outcome.omitted
    )
    if outcome.result is not None:
        if is_payload(outcome.result):
            message.result_payload = payload_id_in(outcome.result)
        else:
            message.result.MergeFromString(outcome.result)
    if outcome.error_reason is not None:
        message.error.reason, message.error.message = outcome.error_reason, outcome.error_message or ""
    return message
