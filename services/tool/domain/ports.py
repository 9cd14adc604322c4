"""What the use cases need from the outside; storage and adapters implement it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from services.tool.domain.ledger import Step
from services.tool.domain.model import JSON, Execution, Outcome, Program, Tool


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
