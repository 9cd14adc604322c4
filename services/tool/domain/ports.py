"""What the use cases need from the outside; storage and adapters implement it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from services.tool.domain.ledger import Step
from services.tool.domain.model import JSON, Execution, Outcome, Program, Tool
from services.tool.domain.told import LogEvent, Usage


class ToolStore(Protocol):
    """The tools that tenants registered."""

    async def create(self, tenant_id: str, tool: Tool) -> Tool:
        """Stores a tool and gives it with its create_time; raises ToolAlreadyExists."""
        ...

    async def get(self, tenant_id: str, tool_name: str) -> Tool | None:
        """The tool of that name, or None."""
        ...

    async def list_after(self, tenant_id: str, tool_name: str, limit: int) -> Sequence[Tool]:
        """At most `limit` tools whose names come after `tool_name`, by name."""
        ...


class Ledger(Protocol):
    """The effect ledger."""

    async def begin(self, tenant_id: str, execution: Execution) -> tuple[Step, Execution]:
        """Writes the row RUNNING, or says what to do with the row that the step has; the row comes with the answer."""
        ...

    async def end(self, tenant_id: str, execution: Execution, outcome: Outcome) -> bool:
        """Writes the outcome; False when the row is no longer this process' to end."""
        ...

    async def release(self, tenant_id: str, execution: Execution) -> None:
        """Forgets a row whose code never began to run."""
        ...

    async def cut_off(self, tenant_id: str, execution: Execution) -> None:
        """Marks a row UNKNOWN, whose run broke and cannot be followed any more."""
        ...

    async def changed(self, tenant_id: str, execution: Execution) -> None:
        """Returns when the row may have changed, after a fraction of a second at the latest."""
        ...

    async def list_before(
        self, tenant_id: str, task_id: str, execution_id: str | None, limit: int
    ) -> tuple[Sequence[Execution], bool]:
        """Executions older than `execution_id` (None: from the newest) of one task or, if empty, of any; and if there are more.

        At least one when there is one, at most `limit`, fewer where they are large; none carries what was printed.
        """
        ...


class Deliveries(Protocol):
    """Whether what is told of an execution has arrived."""

    async def told(self, execution_id: str) -> None:
        """Returns when the log of the task has what there is of the execution until now, or it has taken too long."""
        ...


class Lanes(Protocol):
    """Which lanes of the outboxes are this process's to tell."""

    def owned(self) -> Mapping[int, int]:
        """The epoch of each lane; none while that is not sure."""
        ...


class LaneLeases(Protocol):
    """Leases of lanes (see services.common.lanes). Those that wait raise Unavailable or Aborted."""

    async def renew(self) -> Mapping[int, int]:
        """Renews what this process has, gives up what is more than its share, takes what is free; gives lane → epoch."""
        ...

    def valid(self) -> bool:
        """Whether the leases last, by this process's monotonic clock."""
        ...

    async def leave(self) -> None:
        """Gives everything up, so that the others take over at once."""
        ...


class LogOutbox(Protocol):
    """Events that the scheduler has not acknowledged yet. Every method raises Unavailable or Aborted."""

    async def read(self, lanes: Sequence[int], most: int, most_bytes: int) -> Sequence[LogEvent]:
        """The oldest events of these lanes, each lane's in order; at least one when there is one."""
        ...

    async def settle(self, told: Sequence[tuple[LogEvent, str]]) -> None:
        """Deletes events that have their final answer: empty, or why they are refused, which the ledger keeps."""
        ...

    async def pending(self, execution_id: str) -> bool:
        """Whether there are any of an execution."""
        ...


class EventLog(Protocol):
    """The scheduler, which numbers the events of tasks."""

    async def append(self, events: Sequence[LogEvent]) -> Sequence[str]:
        """Gives each event its final answer: empty for one that is in the log of its task, or why it is refused.

        Raises:
            DependencyUnavailable: nothing is known; they are to be told again.
            EventRefused: one of them cannot be read.
        """
        ...


class UsageOutbox(Protocol):
    """Records of use that Kafka has not acknowledged yet. Every method raises Unavailable or Aborted."""

    async def read(self, most: int) -> Sequence[Usage]:
        """The oldest ones, in order."""
        ...

    async def delete(self, usages: Sequence[Usage]) -> None:
        """Deletes what was acknowledged."""
        ...


class UsagePublisher(Protocol):
    """Publishes until another process opens one."""

    async def publish(self, usages: Sequence[Usage]) -> None:
        """Publishes all of them or none; raises DependencyUnavailable when that is not known: open another and read again."""
        ...


class UsageTopic(Protocol):
    """The topic of records of use."""

    async def ensure(self) -> None:
        """Creates it; waits for Kafka as long as it takes."""
        ...

    def open(self) -> AbstractAsyncContextManager[UsagePublisher]:
        """A publisher; opening it ends the one before, in any process. Raises DependencyUnavailable."""
        ...


class Sandbox(Protocol):
    """Something that runs code apart from the machine."""

    async def run(self, program: Program) -> Outcome:
        """Runs the code to its end or its limit; never raises for what the code does.

        Raises:
            SandboxUnavailable: the code did not begin to run.
            SandboxLost: the sandbox broke while the code ran.
        """
        ...


class SchemaChecker(Protocol):
    """JSON Schema (2020-12), on schemas that are not to be trusted."""

    async def problem_of_schema(self, schema: Mapping[str, JSON]) -> str | None:
        """What is wrong with `schema`, or None."""
        ...

    async def problem_of_arguments(self, schema: Mapping[str, JSON], arguments: Mapping[str, JSON]) -> str | None:
        """How `arguments` break `schema`, or None."""
        ...
