"""Errors about the keys that encrypt events, and about users who are erased."""

from __future__ import annotations

from services.common.errors import (
    FailedPrecondition,
    NotFound,
)
from services.scheduler.domain.errors import DOMAIN


class EventKeyNotFound(NotFound):
    """No such key that the caller may have."""

    reason = "EVENT_KEY_NOT_FOUND"
    domain = DOMAIN

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"No event key {key_id!r} of yours; keys of other users of your tenant are given to its admins.", key_id=key_id
        )


class EventKeyDestroyed(NotFound):
    """The user of a key is erased."""

    reason = "EVENT_KEY_DESTROYED"
    domain = DOMAIN

    def __init__(self, key_id: str, username: str) -> None:
        """`username` is for who decides whom to tell; it is not told."""
        super().__init__(
            f"The event key {key_id!r} was destroyed when its user was erased; what it encrypted cannot be read any more.",
            key_id=key_id,
        )
        self.username = username


class EventKeysNotSet(FailedPrecondition):
    """There is no master key to encrypt events with."""

    reason = "EVENT_KEYS_NOT_SET"
    domain = DOMAIN

    def __init__(self) -> None:
        super().__init__(
            "This mesh has no master key to encrypt events with; have the operator set GUILDMESH_EVENT_MASTER_KEY for every"
            " scheduler, or choose another event_content."
        )


class UserErased(FailedPrecondition):
    """A task of a user who is erased."""

    reason = "USER_ERASED"
    domain = DOMAIN

    def __init__(self, username: str) -> None:
        super().__init__(f"The user {username!r} is erased; create the task as another user.", username=username)


class EventKeySealed(FailedPrecondition):
    """A key is sealed with a master key that this process does not have."""

    reason = "EVENT_KEY_SEALED"
    domain = DOMAIN

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"The event key {key_id!r} is sealed with a master key that this scheduler does not have; have the operator set the"
            " one of before as GUILDMESH_EVENT_MASTER_KEY_BEFORE.",
            key_id=key_id,
        )
