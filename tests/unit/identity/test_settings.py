"""What identity refuses to start with, and what it then says."""

from __future__ import annotations

import base64

import pytest
from pydantic import SecretStr, ValidationError

from services.identity.settings import IdentitySettings, ServingSettings

MASTER_KEY = SecretStr(base64.b64encode(bytes(32)).decode())
SECRET = SecretStr("s" * 32)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JWT_SECRET_KEY", "JWT_ALGORITHM", "JWT_EXPIRATION_MINUTES", "GUILDMESH_MASTER_KEY", "GUILDMESH_PROFILE"):
        monkeypatch.delenv(name, raising=False)


def serving(**values: object) -> ServingSettings:
    return ServingSettings(_env_file=None, **values)  # type: ignore[arg-type]


def test_the_plans_defaults_hold() -> None:
    settings = serving(jwt_secret_key=SECRET)
    assert (settings.jwt_algorithm, settings.token_lifetime.total_seconds()) == ("HS256", 1800)


def test_own_keys_need_only_a_master_key() -> None:
    assert serving(master_key=MASTER_KEY).jwt_secret_key is None


def test_migrations_need_no_secret() -> None:
    assert IdentitySettings(_env_file=None).master_key is None


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        ({}, "set GUILDMESH_MASTER_KEY"),
        ({"jwt_secret_key": SecretStr("")}, "set GUILDMESH_MASTER_KEY"),
        ({"jwt_secret_key": SecretStr("too short")}, "at least 32 bytes for HS256"),
        ({"jwt_secret_key": SECRET, "jwt_algorithm": "HS512"}, "at least 64 bytes for HS512"),
        ({"jwt_secret_key": SECRET, "jwt_algorithm": "none"}, "choose HS256"),
        ({"jwt_secret_key": SECRET, "jwt_algorithm": "ES256"}, "unset"),
        ({"jwt_algorithm": "RS256", "master_key": MASTER_KEY}, "needs JWT_SECRET_KEY"),
        ({"master_key": SecretStr("abc")}, "base64 of 32 bytes"),
    ],
)
def test_settings_that_cannot_sign_are_refused_with_what_to_do(values: dict[str, object], advice: str) -> None:
    with pytest.raises(ValidationError, match=advice) as caught:
        serving(**values)
    assert "too short" not in str(caught.value)
