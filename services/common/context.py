"""Who calls, on whose behalf, and until when: the context of the call that is being served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Literal

from services.common.ids import new_id


@dataclass(frozen=True, slots=True)
class Principal:
    """The end caller, as verified at the edge or by a service's certificate."""

    subject: str
    """username of a user, or "service:NAME"."""
    tenant_id: str
    """tenant whose data the caller sees; empty for a service that acts for itself."""
    roles: frozenset[str] = frozenset()
    kind: Literal["user", "service", "anonymous"] = "user"
    watches: str = ""
    """id of the only task whose events a caller with a ticket may see, and nothing else; empty for any other caller."""


ANONYMOUS = Principal(subject="", tenant_id="", kind="anonymous")


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a handler may know of its call."""

    request_id: str
    principal: Principal = ANONYMOUS
    peer: str = ""
    """service name in the certificate of the connection, such as "gateway"."""
    traceparent: str = ""
    """W3C trace context, or empty."""
    deadline: float | None = None
    """monotonic seconds (asyncio loop time) at which the caller stops waiting, or None."""
    token_ends: float | None = None
    """monotonic seconds (asyncio loop time) at which the caller's token ends; None for a caller without a token."""

    @property
    def trace_id(self) -> str:
        """The 32 hex digits of the trace, or empty."""
        parts = self.traceparent.split("-")
        return parts[1] if len(parts) == 4 else ""


_current: ContextVar[CallContext | None] = ContextVar("guildmesh_call", default=None)


def current_call() -> CallContext:
    """The context of the call that is being served; outside of any call a fresh anonymous one."""
    return _current.get() or CallContext(request_id=new_id())


def current_call_or_none() -> CallContext | None:
    """The context of the call that is being served; None outside of any call."""
    return _current.get()


def enter_call(call: CallContext) -> None:
    """Makes `call` current for the rest of this asyncio task; every RPC runs in a task of its own."""
    _current.set(call)


@contextmanager
def acting_as(principal: Principal, traceparent: str | None = None) -> Iterator[CallContext]:
    """Makes outgoing calls in this block on behalf of `principal`, as background work for a task's creator does."""
    base = current_call()
    call = replace(base, principal=principal, traceparent=base.traceparent if traceparent is None else traceparent)
    token = _current.set(call)
    try:
        yield call
    finally:
        _current.reset(token)
