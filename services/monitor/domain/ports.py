"""What the use cases need from outside."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from services.monitor.domain.health import EventLag, HealthReport

Check = Callable[[], Awaitable[None]]
"""Returns when what it asks answers; raises otherwise. It MUST recover by itself when what it asks is back."""


class Health(Protocol):
    """How the mesh is now."""

    async def report(self) -> HealthReport:
        """The outcome of every check, at most a second old. MUST NOT raise because something is down."""


class EventLags(Protocol):
    """How far events are behind on their way to Kafka."""

    async def read(self) -> EventLag | None:
        """What a relay tells; None when none answers. MUST NOT raise because something is down."""


class TaskCounts(Protocol):
    """The scheduler's counts."""

    async def count(self) -> Mapping[str, int]:
        """Tasks of the whole mesh by status; raises DomainError or OSError when the scheduler does not answer."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file to show."""

    content_type: str
    data: bytes


class Documents(Protocol):
    """The documentation of the REST surface and of the topics."""

    def open_api(self) -> Document:
        """The OpenAPI document."""

    def async_api(self) -> Document:
        """The AsyncAPI document."""

    def page(self, file: str) -> Document | None:
        """The page (file "") or one of the files that it needs; None for any other name."""
