"""Our own signing keys: published before they sign, signing one at a time, kept until their tokens end."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import replace
from datetime import timedelta

import jwt
import pytest

from services.common.errors import DependencyUnavailable
from services.common.key_cipher import CannotOpen, KeyCipher
from services.identity.adapters.key_ring import KeyRing
from services.identity.domain.token import Grant, PublicKey, StoredKey

DAY = timedelta(hours=24)
LEAD = timedelta(minutes=10)
LIFE = timedelta(minutes=30)
GRANT = Grant("ada", "acme", ("user", "admin"), LIFE)


def master_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


class Keys:
    """A SigningKeyStore whose clock a test moves."""

    def __init__(self) -> None:
        self.keys: list[StoredKey] = []
        self.available = True

    async def load(self) -> list[StoredKey]:
        if not self.available:
            raise DependencyUnavailable("database")
        return sorted(self.keys, key=lambda key: key.age)

    async def add(self, key: StoredKey, unless_younger_than: timedelta | None) -> bool:
        if unless_younger_than is not None and any(other.age < unless_younger_than for other in self.keys):
            return False
        self.keys.append(key)
        return True

    async def forget(self, superseded_for: timedelta) -> int:
        old = [key for key in self.keys if any(superseded_for < new.age < key.age for new in self.keys)]
        self.keys = [key for key in self.keys if key not in old]
        return len(old)

    def pass_time(self, by: timedelta) -> None:
        self.keys = [replace(key, age=key.age + by) for key in self.keys]


def ring_over(keys: Keys, key: str) -> KeyRing:
    return KeyRing(keys, KeyCipher(key), rotation=DAY, lead=LEAD, token_life=LIFE)


def verify(token: str, keys: list[PublicKey]) -> dict[str, object]:
    key_id = jwt.get_unverified_header(token)["kid"]
    key = next(key for key in keys if key.key_id == key_id)
    jwk = jwt.PyJWK.from_json(json.dumps({"kty": "EC", "crv": "P-256", "x": key.x, "y": key.y, "alg": "ES256"}))
    claims: dict[str, object] = jwt.decode(token, jwk, algorithms=["ES256"], audience="guildmesh", issuer="guildmesh")
    return claims


async def test_a_token_has_the_claims_and_verifies_with_the_published_key() -> None:
    ring = ring_over(Keys(), master_key())
    token = await ring.sign(GRANT)
    claims = verify(token.text, await ring.public_keys())
    assert (claims["sub"], claims["tenant"], claims["roles"]) == ("ada", "acme", ["user", "admin"])
    assert claims["exp"] - claims["iat"] == token.expires_in == 1800  # type: ignore[operator]
    assert claims["jti"]


async def test_the_next_key_is_published_before_it_signs_and_the_old_one_outlives_its_tokens() -> None:
    keys = Keys()
    ring = ring_over(keys, master_key())
    old_token = (await ring.sign(GRANT)).text
    first = (await ring.public_keys())[0]

    keys.pass_time(DAY - LEAD)
    await ring.refresh()
    published = await ring.public_keys()
    assert len(published) == 2
    assert published[0] == first
    assert jwt.get_unverified_header((await ring.sign(GRANT)).text)["kid"] == first.key_id

    keys.pass_time(LEAD + timedelta(seconds=1))
    await ring.refresh()
    published = await ring.public_keys()
    assert published[0] != first
    assert jwt.get_unverified_header((await ring.sign(GRANT)).text)["kid"] == published[0].key_id
    assert verify(old_token, published)["sub"] == "ada"

    keys.pass_time(LIFE)
    await ring.refresh()
    assert first in await ring.public_keys()
    keys.pass_time(timedelta(minutes=20))
    await ring.refresh()
    assert first not in await ring.public_keys()


async def test_two_replicas_rotating_at_once_make_one_key() -> None:
    keys, key = Keys(), master_key()
    one, other = ring_over(keys, key), ring_over(keys, key)
    await one.refresh()
    await other.refresh()
    assert len(keys.keys) == 1
    keys.pass_time(DAY)
    before = await keys.load()
    assert await one._rotate(before)
    assert not await other._rotate(before)
    assert len(keys.keys) == 2


async def test_a_replaced_master_key_makes_a_new_signing_key_and_still_publishes_the_old_one() -> None:
    keys = Keys()
    first = ring_over(keys, master_key())
    old_token = (await first.sign(GRANT)).text
    second = ring_over(keys, master_key())
    token = (await second.sign(GRANT)).text
    published = await second.public_keys()
    assert verify(token, published)["sub"] == "ada"
    assert verify(old_token, published)["sub"] == "ada"


async def test_without_a_database_the_keys_read_before_still_sign() -> None:
    keys = Keys()
    ring = ring_over(keys, master_key())
    await ring.sign(GRANT)
    keys.available = False
    assert (await ring.sign(GRANT)).text
    with pytest.raises(DependencyUnavailable):
        await ring_over(keys, master_key()).sign(GRANT)


def test_a_sealed_key_opens_only_under_its_own_name_and_master_key() -> None:
    cipher = KeyCipher(master_key())
    sealed = cipher.seal("one", b"secret")
    assert cipher.open("one", sealed) == b"secret"
    with pytest.raises(CannotOpen):
        cipher.open("other", sealed)
    with pytest.raises(CannotOpen):
        KeyCipher(master_key()).open("one", sealed)


@pytest.mark.parametrize("wrong", ["", "short", base64.b64encode(b"31 bytes" * 3).decode(), "ü" * 44])
def test_a_master_key_of_the_wrong_form_is_refused_with_what_to_do(wrong: str) -> None:
    with pytest.raises(ValueError, match="openssl rand -base64 32"):
        KeyCipher(wrong)
