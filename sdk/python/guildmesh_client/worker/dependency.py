"""How a task that another one waited for has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from google.protobuf.struct_pb2 import Value
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as pb

from guildmesh_client.worker.errors import ResultOmitted
from guildmesh_client.worker.json_values import JsonValue, from_value

State = Literal["completed", "failed", "cancelled"]
_STATES: dict[int, State] = {
    task_pb2.TASK_STATE_COMPLETED: "completed",
    task_pb2.TASK_STATE_FAILED: "failed",
    task_pb2.TASK_STATE_CANCELLED: "cancelled",
}


@dataclass(frozen=True, slots=True)
class DependencyError:
    """Why a dependency failed."""

    reason: str
    """machine-readable, such as "TIMEOUT"."""
    message: str
    """for people; at most its first 2,000 characters."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """The end of a task that another one waited for."""

    task_id: str
    state: State
    """completed; or failed or cancelled, where the one that waited goes on nevertheless."""
    error: DependencyError | None
    """of a failed one."""
    result_omitted: bool
    """whether it has a result that did not fit into the lease, or is no longer kept."""
    _result: Value

    @property
    def result(self) -> JsonValue:
        """Its result; None for one that did not complete.

        Raises:
            ResultOmitted: it is not here; `Task.result_of` reads it.
        """
        if self.result_omitted:
            raise ResultOmitted(self.task_id)
        return from_value(self._result)

    @classmethod
    def of(cls, message: pb.TaskDependencyOutcome) -> Dependency:
        """What a lease says of it."""
        error = DependencyError(message.error.reason, message.error.message) if message.HasField("error") else None
        return cls(message.task_id, _STATES[message.state], error, message.result_omitted, message.result)
