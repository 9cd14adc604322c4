"""Settings of the identity service."""

from __future__ import annotations

from datetime import timedelta
from typing import Self

from pydantic import Field, SecretStr, model_validator

from services.common.key_cipher import KeyCipher
from services.common.settings import ServiceSettings, blank_is_unset
from services.identity.adapters.shared_secret import SharedSecretSigner

OWN_KEYS_ALGORITHM = "ES256"


class IdentitySettings(ServiceSettings):
    """What migrations and the command line need, too."""

    jwt_secret_key: SecretStr | None = Field(
        None, validation_alias="JWT_SECRET_KEY", description="shared secret; tokens are signed with keys of our own without it"
    )
    jwt_algorithm: str = Field(
        "HS256", validation_alias="JWT_ALGORITHM", description="HS256, HS384 or HS512 with JWT_SECRET_KEY; else always ES256"
    )
    jwt_expiration_minutes: int = Field(30, ge=1, le=1440, validation_alias="JWT_EXPIRATION_MINUTES")
    master_key: SecretStr | None = Field(
        None,
        validation_alias="GUILDMESH_MASTER_KEY",
        description="base64 of the 32 bytes that encrypt private keys at rest; not needed with JWT_SECRET_KEY",
    )
    key_rotation_hours: float = Field(
        24, ge=1, validation_alias="GUILDMESH_KEY_ROTATION_HOURS", description="how long a key of our own signs"
    )
    key_lead_minutes: float = Field(
        10,
        ge=5,
        le=30,
        validation_alias="GUILDMESH_KEY_LEAD_MINUTES",
        description="how long a key is published before it signs; longer than any verifier caches the key set",
    )

    _blank_keys = blank_is_unset("jwt_secret_key", "master_key")

    @property
    def token_lifetime(self) -> timedelta:
        """How long a token is valid."""
        return timedelta(minutes=self.jwt_expiration_minutes)


class ServingSettings(IdentitySettings):
    """What the service process needs: a way to sign tokens."""

    @model_validator(mode="after")
    def _can_sign(self) -> Self:
        if self.jwt_secret_key is not None:
            SharedSecretSigner(self.jwt_secret_key.get_secret_value(), self.jwt_algorithm)
            return self
        if self.jwt_algorithm not in ("HS256", OWN_KEYS_ALGORITHM):
            raise ValueError(
                f"JWT_ALGORITHM {self.jwt_algorithm!r} needs JWT_SECRET_KEY; set it, or unset both for ES256"
                " with keys of our own."
            )
        if self.master_key is None:
            raise ValueError(
                "set GUILDMESH_MASTER_KEY, which encrypts the signing keys (make one with 'openssl rand -base64 32'),"
                " or JWT_SECRET_KEY for tokens signed with a shared secret."
            )
        KeyCipher(self.master_key.get_secret_value())
        return self
