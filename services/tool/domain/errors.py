"""What the tool service refuses, and why (proto/guildmesh/tool/v1/error_reason.proto)."""

from __future__ import annotations

from services.common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound

DOMAIN = "tool.guildmesh.dev"


class ToolNotFound(NotFound):
    """The caller's tenant sees no such tool."""

    reason = "TOOL_NOT_FOUND"
    domain = DOMAIN

    def __init__(self, tool_name: str) -> None:
        super().__init__(f"No tool {tool_name!r}; list the tools with GET /v1/tools.", tool_name=tool_name)


class ToolAlreadyExists(AlreadyExists):
    """The name is taken, by the tenant or by a built-in."""

    reason = "TOOL_ALREADY_EXISTS"
    domain = DOMAIN

    def __init__(self, tool_name: str) -> None:
        super().__init__(f"The tool {tool_name!r} exists already.", tool_name=tool_name)


class ToolSchemaInvalid(InvalidArgument):
    """The input_schema is not a JSON Schema (2020-12) of an object."""

    reason = "TOOL_SCHEMA_INVALID"
    domain = DOMAIN

    def __init__(self, tool_name: str, problem: str) -> None:
        super().__init__(f"tool.input_schema: {problem}", tool_name=tool_name)


class ToolArgumentsInvalid(InvalidArgument):
    """The arguments break the tool's input_schema."""

    reason = "TOOL_ARGUMENTS_INVALID"
    domain = DOMAIN

    def __init__(self, tool_name: str, problem: str) -> None:
        super().__init__(problem, tool_name=tool_name)


class SandboxUnavailable(FailedPrecondition):
    """Nothing here can run code apart from the machine; it is never run bare."""

    reason = "SANDBOX_UNAVAILABLE"
    domain = DOMAIN

    def __init__(self) -> None:
        super().__init__("No sandbox can run code here: start a Docker engine, or allow unprivileged user namespaces.")


class SandboxLost(Exception):
    """The sandbox broke while the code ran; what the code did is not known. Never shown to a caller."""


class StaleAttempt(FailedPrecondition):
    """A newer attempt of the task has asked for this step."""

    reason = "STALE_ATTEMPT"
    domain = DOMAIN

    def __init__(self, task_id: str, attempt: int) -> None:
        super().__init__(f"Attempt {attempt} of the task is over; stop working on it.", task_id=task_id, attempt=str(attempt))


class ToolOutcomeUnknown(FailedPrecondition):
    """An execution that must not be repeated was cut off."""

    reason = "TOOL_OUTCOME_UNKNOWN"
    domain = DOMAIN

    def __init__(self, execution_id: str) -> None:
        super().__init__(
            "The execution was cut off and its tool must not run twice; look at what it did before you run it again"
            " under a new step_id.",
            execution_id=execution_id,
        )
