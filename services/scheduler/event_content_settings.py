"""Settings of what of users' texts is on Kafka: for the scheduler that makes events, and a replay that makes them again."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from services.common.settings import blank_is_unset
from services.scheduler.domain.event_content import EventContent
from services.scheduler.master_key_settings import MasterKeySettings


class EventContentSettings(MasterKeySettings):
    """What queues that do not say publish, and the master keys."""

    event_content: Literal["plain", "omit", "encrypted"] | None = Field(
        None,
        validation_alias="KAFKA_EVENT_CONTENT",
        description="what of users' texts is on Kafka in queues that do not say: plain, omit (sizes and hashes) or encrypted"
        " (with a key of the user); plain in development, to be chosen in production",
    )

    _blank_content = blank_is_unset("event_content")

    @property
    def contents(self) -> EventContent:
        """What of users' texts is on Kafka in queues that do not say."""
        return EventContent[(self.event_content or "plain").upper()]

    @model_validator(mode="after")
    def _contents_are_chosen(self) -> Self:
        if self.profile == "production" and self.event_content is None:
            raise ValueError(
                "set KAFKA_EVENT_CONTENT: in production what of users' texts is on Kafka must be chosen: plain (everything),"
                " omit (sizes and hashes) or encrypted (with a key of each user, destroyed when the user is erased)."
            )
        if self.event_master_key is None and self.contents is EventContent.ENCRYPTED:
            raise ValueError(
                "set GUILDMESH_EVENT_MASTER_KEY, which seals the keys that encrypt events (make one with"
                " 'openssl rand -base64 32')."
            )
        return self
