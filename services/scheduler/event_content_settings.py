"""Settings of what of users' texts is on Kafka: for the scheduler that makes events, and a replay that makes them again."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from services.common.key_cipher import KeyCipher
from services.common.settings import ServiceSettings
from services.scheduler.domain.event_content import EventContent


class EventContentSettings(ServiceSettings):
    """What queues that do not say publish, and the master keys."""

    event_content: Literal["plain", "omit", "encrypted"] | None = Field(
        None,
        validation_alias="KAFKA_EVENT_CONTENT",
        description="what of users' texts is on Kafka in queues that do not say: plain, omit (sizes and hashes) or encrypted"
        " (with a key of the user); plain in development, to be chosen in production",
    )
    event_master_key: SecretStr | None = Field(
        None,
        validation_alias="GUILDMESH_EVENT_MASTER_KEY",
        description="base64 of the 32 bytes that seal the users' keys for events; needed where a queue is encrypted",
    )
    event_master_key_before: SecretStr | None = Field(
        None,
        validation_alias="GUILDMESH_EVENT_MASTER_KEY_BEFORE",
        description="the master key of before, until everything is sealed anew: a scheduler does that when it starts",
    )

    @field_validator("event_content", "event_master_key", "event_master_key_before", mode="before")
    @classmethod
    def _blank_is_unset(cls, value: object) -> object:
        return value or None

    @property
    def contents(self) -> EventContent:
        """What of users' texts is on Kafka in queues that do not say."""
        return EventContent[(self.event_content or "plain").upper()]

    @property
    def event_masters(self) -> list[KeyCipher]:
        """The master keys for events, the one that seals first."""
        return [
            KeyCipher(key.get_secret_value(), name)
            for name, key in (
                ("GUILDMESH_EVENT_MASTER_KEY", self.event_master_key),
                ("GUILDMESH_EVENT_MASTER_KEY_BEFORE", self.event_master_key_before),
            )
            if key is not None
        ]

    @model_validator(mode="after")
    def _contents_are_chosen(self) -> Self:
        if self.profile == "production" and self.event_content is None:
            raise ValueError(
                "set KAFKA_EVENT_CONTENT: in production what of users' texts is on Kafka must be chosen: plain (everything),"
                " omit (sizes and hashes) or encrypted (with a key of each user, destroyed when the user is erased)."
            )
        masters = self.event_masters
        if self.event_master_key is None and (masters or self.contents is EventContent.ENCRYPTED):
            raise ValueError(
                "set GUILDMESH_EVENT_MASTER_KEY, which seals the keys that encrypt events (make one with"
                " 'openssl rand -base64 32')."
            )
        return self
