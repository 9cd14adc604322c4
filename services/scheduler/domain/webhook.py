"""What a webhook is: where the events of a tenant's tasks are sent, and how far that is."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum

from services.scheduler.domain.published import parse_event_filter
from services.scheduler.domain.webhook_errors import WebhookSecretSealed

DEFAULT_OVERLAP = timedelta(days=1)
MOST_REPLAYED = 1000
"""failed deliveries that one call has delivered again."""
_SECRET_BYTES = 32
_PREFIX = "whsec_"


class WebhookState(IntEnum):
    """Whether a webhook delivers; the numbers are those of the contract."""

    ACTIVE = 1
    PAUSED = 2
    FAILING = 3


@dataclass(slots=True)
class Webhook:
    """A webhook as its tenant sees it, and what is needed to deliver."""

    tenant_id: str
    webhook_id: str
    url: str
    filter: str
    description: str
    created_by: str
    secret: bytes | None = field(repr=False)
    """None where it is sealed with a master key that this process does not have; previous_secret is None then, too."""
    previous_secret: bytes | None = field(default=None, repr=False)
    previous_secret_expire_time: datetime | None = None
    uid: str = ""
    """a UUID, so that what was done for a deleted webhook of the same id is not taken for this one's."""
    version: int = 1
    generation: int = 1
    """grows when the place from which it delivers is set anew."""
    start_time: datetime | None = None
    start_generation: int | None = None
    """the generation that start_time was set with."""
    paused: bool = False
    failing_since: datetime | None = None
    missed_time: datetime | None = None
    last_error: str = ""
    create_time: datetime | None = None
    update_time: datetime | None = None

    @property
    def state(self) -> WebhookState:
        """Whether it delivers."""
        if self.paused:
            return WebhookState.PAUSED
        return WebhookState.ACTIVE if self.failing_since is None else WebhookState.FAILING

    @property
    def delivers_from(self) -> datetime | None:
        """Events from before it are not delivered; None where a scheduler of the version before has set the place alone."""
        return self.start_time if self.start_generation == self.generation else None

    @property
    def sealed(self) -> bool:
        """Whether this process cannot sign for it."""
        return self.secret is None

    @property
    def etag(self) -> str:
        """Another one after each change that somebody makes."""
        return f"{self.uid[-12:]}-{self.version}"

    def check(self) -> None:
        """Raises InvalidFilter."""
        parse_event_filter(self.filter)

    def changed(self, now: datetime) -> None:
        """Notes that somebody has changed it."""
        self.version += 1
        self.update_time = now

    def begin(self, start: datetime) -> None:
        """Delivers from an event time on."""
        self.start_time, self.start_generation = start, self.generation

    def resume(self) -> None:
        """Has it deliver, at once where its receiver took nothing."""
        self.paused = False
        self.failing_since = None
        self.last_error = ""

    def rotate(self, overlap: timedelta, now: datetime) -> None:
        """Gives it a new secret, and keeps the one before for a time; raises WebhookSecretSealed if it cannot."""
        if overlap and self.secret is None:
            raise WebhookSecretSealed(self.webhook_id)
        self.previous_secret, self.previous_secret_expire_time = (self.secret, now + overlap) if overlap else (None, None)
        self.secret = new_secret()

    def secrets_at(self, now: datetime) -> list[bytes]:
        """The secrets to sign with, the newest first; raises WebhookSecretSealed."""
        if self.secret is None:
            raise WebhookSecretSealed(self.webhook_id)
        expires = self.previous_secret_expire_time
        if self.previous_secret is None or expires is None or expires <= now:
            return [self.secret]
        return [self.secret, self.previous_secret]


@dataclass(frozen=True, slots=True)
class WebhookCounts:
    """How much of a webhook waits in tables."""

    waiting: int
    failed: int
    behind: bool
    """whether more waits in the topic."""


@dataclass(frozen=True, slots=True)
class FailedDelivery:
    """An event that a receiver has refused for good."""

    task_id: str
    number: int
    event_type: str
    """such as "guildmesh.task.completed.v1"."""
    attempts: int
    status_code: int
    error: str
    fail_time: datetime
    event: bytes | None = None
    """guildmesh.events.v1.TaskEvent, serialized; None when it was not asked for."""

    @property
    def delivery_id(self) -> str:
        """Names it within its webhook."""
        return f"{self.task_id}.{self.number}"


@dataclass(frozen=True, slots=True)
class Delivered:
    """What came of sending one event."""

    status_code: int
    """of HTTP; 0 when no answer came."""
    error: str
    """empty when it was taken."""
    seconds: float
    retry_after: float | None = None
    """seconds, as a receiver asked with 429 or 503."""

    @property
    def taken(self) -> bool:
        """Whether the receiver has it."""
        return not self.error

    @property
    def gone(self) -> bool:
        """Whether the receiver says that it wants nothing any more."""
        return self.status_code == 410


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event as it goes to a receiver."""

    event_id: str
    """ce-id, the same in each repeat."""
    body: bytes
    headers: Mapping[str, str]
    """without what differs from try to try."""
    time: float
    """of the event, in seconds since 1970."""


def new_secret() -> bytes:
    """What a receiver knows a webhook by."""
    return secrets.token_bytes(_SECRET_BYTES)


def secret_text(secret: bytes) -> str:
    """A secret as people and libraries of Standard Webhooks write it."""
    return _PREFIX + base64.b64encode(secret).decode()


def delivery_key(delivery_id: str) -> tuple[str, int] | None:
    """Task id and number of a delivery_id; None when it is none."""
    task_id, dot, number = delivery_id.rpartition(".")
    if not dot or not number.isascii() or not number.isdigit() or len(number) > 9:
        return None
    return task_id, int(number)
