"""Errors of the domain, and what a caller is told of them.

A service raises a subclass of one of the kinds below; the errors interceptor answers it as google.rpc.Status with one
ErrorInfo (AIP-193). What a domain error says is public; anything else that is raised becomes INTERNAL, and only the log has it.
"""

from __future__ import annotations

from typing import ClassVar

COMMON_DOMAIN = "guildmesh.dev"


class DomainError(Exception):
    """An error that a caller is told of.

    Attributes:
        code: the name of the gRPC status code.
        reason: the ErrorInfo reason, a name in the domain's error_reason.proto.
        domain: the ErrorInfo domain.
        retry_after: seconds after which a repeat may succeed (RetryInfo), or None.
        violations: pairs of field and what is wrong with it (BadRequest).
    """

    code: ClassVar[str] = "INTERNAL"
    reason: str = "INTERNAL"
    domain: str = COMMON_DOMAIN
    retry_after: float | None = None
    violations: tuple[tuple[str, str], ...] = ()

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata


class InvalidArgument(DomainError):
    """The request breaks a rule, whatever the state of the system."""

    code = "INVALID_ARGUMENT"
    reason = "INVALID_ARGUMENT"


class NotFound(DomainError):
    """The caller's tenant has no such thing."""

    code = "NOT_FOUND"


class AlreadyExists(DomainError):
    """The thing to create exists."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(DomainError):
    """The system is not in the state that the request needs; a repeat does not help until that changes."""

    code = "FAILED_PRECONDITION"


class PermissionDenied(DomainError):
    """The caller is known and may not do this."""

    code = "PERMISSION_DENIED"


class Unauthenticated(DomainError):
    """The caller did not prove who it is."""

    code = "UNAUTHENTICATED"
    reason = "UNAUTHENTICATED"


class ResourceExhausted(DomainError):
    """A limit is reached."""

    code = "RESOURCE_EXHAUSTED"


class Aborted(DomainError):
    """A concurrent change won; repeat the whole operation."""

    code = "ABORTED"
    reason = "CONFLICT"
    retry_after: float | None = 0.05


class Unavailable(DomainError):
    """A dependency does not answer; repeat after `retry_after` seconds."""

    code = "UNAVAILABLE"
    reason = "DEPENDENCY_UNAVAILABLE"
    retry_after = 1.0


class DeadlineExceeded(DomainError):
    """The deadline passed."""

    code = "DEADLINE_EXCEEDED"
    reason = "DEADLINE_EXCEEDED"


class Internal(DomainError):
    """A fault of ours."""

    code = "INTERNAL"


class ObjectNotFound(Exception):
    """The object store has no object of this key; what it was to be is for who asked to say."""


class InvalidRequest(InvalidArgument):
    """One or more fields break their rules."""

    def __init__(self, violations: list[tuple[str, str]]) -> None:
        field = violations[0][0]
        super().__init__("; ".join(f"{name}: {text}" if name else text for name, text in violations[:10]), field=field)
        self.violations = tuple(violations[:100])


class MalformedRequest(InvalidArgument):
    """The bytes of a request are not a message of its type."""

    reason = "MALFORMED_REQUEST"

    def __init__(self, type_name: str) -> None:
        super().__init__(
            f"The request could not be parsed as {type_name}; send a valid message nested at most 100 levels deep.",
            type=type_name,
        )


class InvalidPageToken(InvalidArgument):
    """A page token that was not given for these arguments."""

    reason = "INVALID_PAGE_TOKEN"

    def __init__(self) -> None:
        super().__init__("page_token is not one that this list gave for these arguments; start again without it.")


class WatchTicketRefused(PermissionDenied):
    """The ticket by which a browser follows a task was sent for something else."""

    reason = "WATCH_TICKET_REFUSED"

    def __init__(self, task_id: str) -> None:
        super().__init__(
            f"This ticket opens GET /v1/tasks/{task_id}/events and nothing else; for another task get another from POST"
            " /v1/watch-tickets.",
            task_id=task_id,
        )


class CallerNotAllowed(PermissionDenied):
    """The connection's certificate may not call the method."""

    reason = "CALLER_NOT_ALLOWED"

    def __init__(self, caller: str, method: str) -> None:
        super().__init__(f"A caller with the certificate of {caller!r} may not call {method}.", caller=caller, method=method)


class RoleRequired(PermissionDenied):
    """The end caller has none of the roles that are asked for."""

    reason = "ROLE_REQUIRED"

    def __init__(self, *roles: str) -> None:
        super().__init__(f"This method needs one of the roles: {', '.join(roles)}.", roles=",".join(roles))


class TokenRequired(Unauthenticated):
    """The method needs an authenticated caller."""

    def __init__(self) -> None:
        super().__init__(
            "This method needs a bearer token: get one from POST /auth/token and send it as 'Authorization: Bearer TOKEN'."
        )


class TokenExpired(Unauthenticated):
    """The token that opened a stream has ended."""

    reason = "TOKEN_EXPIRED"

    def __init__(self) -> None:
        super().__init__("The token of this stream has ended; open another stream with a fresh one.")


class DependencyUnavailable(Unavailable):
    """A dependency does not answer."""

    def __init__(self, dependency: str, retry_after: float = 1.0) -> None:
        super().__init__(f"The {dependency} does not answer; retry in {retry_after:g} s.", dependency=dependency)
        self.retry_after = retry_after


class ConcurrentChange(Aborted):
    """A concurrent change got in the way."""

    def __init__(self) -> None:
        super().__init__("A concurrent change got in the way; repeat the operation.")
