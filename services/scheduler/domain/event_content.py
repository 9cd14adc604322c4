"""What of users' texts is on Kafka."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from functools import cached_property

from services.scheduler.domain.event_cipher import EventCipher

LARGE = 64 << 10
"""bytes of a result above which an event on Kafka has only its size and SHA-256, and where to read it."""


class EventContent(IntEnum):
    """What a record has of them; the numbers are those of guildmesh.events.v1.EventContent and of the database."""

    PLAIN = 1
    """all of it, but of results above LARGE the size and SHA-256."""
    OMIT = 2
    """of each text the size and SHA-256."""
    ENCRYPTED = 3
    """of each text the size, and all of it encrypted with the key of the user who created the task."""

    @property
    def _text(self) -> int:
        return (EventContent.PLAIN, EventContent.ENCRYPTED, EventContent.OMIT).index(self)

    def at_least(self, other: EventContent) -> EventContent:
        """The one of the two that has less text."""
        return self if self._text >= other._text else other


@dataclass(frozen=True)
class EventKey:
    """The key of a user, unsealed."""

    key_id: str
    tenant_id: str
    username: str
    key: bytes
    create_time: datetime

    @cached_property
    def cipher(self) -> EventCipher:
        """What encrypts with it."""
        return EventCipher(self.key_id, self.key)
