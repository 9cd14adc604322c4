"""Settings of the master keys, for those who seal keys and secrets and those who open them."""

from __future__ import annotations

from typing import Self

from pydantic import Field, SecretStr, model_validator

from services.common.key_cipher import KeyCipher
from services.common.master_keys import MasterKeys
from services.common.settings import ServiceSettings, blank_is_unset


class MasterKeySettings(ServiceSettings):
    """The master key, and the one of before while it is changed."""

    event_master_key: SecretStr | None = Field(
        None,
        validation_alias="GUILDMESH_EVENT_MASTER_KEY",
        description="base64 of the 32 bytes that seal the users' keys for events and the secrets of webhooks at rest; needed"
        " where a queue is encrypted, else without it the secrets are plain; the same for schedulers and webhook processes",
    )
    event_master_key_before: SecretStr | None = Field(
        None,
        validation_alias="GUILDMESH_EVENT_MASTER_KEY_BEFORE",
        description="the master key of before, until everything is sealed anew: a scheduler does that when it starts",
    )

    _blank_master_keys = blank_is_unset("event_master_key", "event_master_key_before")

    @property
    def master_keys(self) -> MasterKeys:
        """What seals and opens."""
        return MasterKeys(
            [
                KeyCipher(key.get_secret_value(), name)
                for name, key in (
                    ("GUILDMESH_EVENT_MASTER_KEY", self.event_master_key),
                    ("GUILDMESH_EVENT_MASTER_KEY_BEFORE", self.event_master_key_before),
                )
                if key is not None
            ]
        )

    @model_validator(mode="after")
    def _keys_are_keys(self) -> Self:
        if self.master_keys and self.event_master_key is None:
            raise ValueError(
                "set GUILDMESH_EVENT_MASTER_KEY as well: GUILDMESH_EVENT_MASTER_KEY_BEFORE only opens what was sealed before"
                " (make a key with 'openssl rand -base64 32')."
            )
        return self
