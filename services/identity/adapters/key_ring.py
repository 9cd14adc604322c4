"""Tokens signed with our own rotating ES256 keys (RFC 7518, 3.4).

A key lives in three phases, all by the database's clock. It is published `lead` before it signs, so that every verifier has
fetched it by then; it signs for `rotation`; and it stays published until the last token it signed has ended.
"""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import dataclass
from datetime import timedelta

import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from services.common.errors import DomainError
from services.common.ids import new_id
from services.common.key_cipher import CannotOpen, KeyCipher
from services.identity.adapters.claims import claims_of
from services.identity.domain.ports import SigningKeyStore
from services.identity.domain.token import Grant, PublicKey, StoredKey, Token

log = structlog.get_logger(__name__)

# Replicas read the keys this often, so a signer lags by that much; `lead` must be several times larger.
REFRESH_SECONDS = 60.0
# A ring that could not be read for so long may miss that its key was forgotten elsewhere.
_STALE_SECONDS = 300.0
_COORDINATE_BYTES = 32


@dataclass(frozen=True, slots=True)
class _Ring:
    private_key: ec.EllipticCurvePrivateKey
    signing: PublicKey
    others: tuple[PublicKey, ...]
    read_at: float


class KeyRing:
    """Implements the port TokenSigner over the keys in a SigningKeyStore."""

    def __init__(
        self, store: SigningKeyStore, cipher: KeyCipher, rotation: timedelta, lead: timedelta, token_life: timedelta
    ) -> None:
        self._store = store
        self._cipher = cipher
        self._rotation = rotation
        self._lead = lead
        # Beside the tokens' life: a replica may sign with the old key for as long as its ring may be stale.
        self._keep = token_life + timedelta(seconds=_STALE_SECONDS) + lead
        self._ring: _Ring | None = None
        self._refreshing = asyncio.Lock()

    async def sign(self, grant: Grant) -> Token:
        """A token that begins now. Raises what the store raises while there is no usable ring."""
        ring = await self._usable()
        text = jwt.encode(claims_of(grant), ring.private_key, algorithm="ES256", headers={"kid": ring.signing.key_id})
        return Token(text, int(grant.lifetime.total_seconds()))

    async def public_keys(self) -> list[PublicKey]:
        """The signing key first, then the next one and those still accepted."""
        ring = await self._usable()
        return [ring.signing, *ring.others]

    async def refresh(self) -> None:
        """Reads the keys, makes the next one when it is due, and forgets those that no token needs."""
        keys = await self._store.load()
        signing = self._open_newest(keys)
        if signing is None:
            # The first key of all, or the master key was replaced: it must sign at once, and others may race to do the same.
            only_if_first = None if keys else timedelta(days=36500)
            await self._store.add(self._new_key(timedelta(0)), only_if_first)
            keys = await self._store.load()
            signing = self._open_newest(keys)
            if signing is None:
                raise RuntimeError("the signing key that was just stored cannot be opened with GUILDMESH_MASTER_KEY")
        elif await self._rotate(keys):
            keys = await self._store.load()
            signing = self._open_newest(keys) or signing
        key, private_key = signing
        others = tuple(other.public for other in keys if other.public.key_id != key.public.key_id)
        self._ring = _Ring(private_key, key.public, others, time.monotonic())

    async def _rotate(self, keys: list[StoredKey]) -> bool:
        """Adds the next key when it is due and forgets what no token needs; tells whether anything changed."""
        changed = False
        if keys[0].age >= self._rotation - self._lead:
            changed = await self._store.add(self._new_key(-self._lead), self._rotation - self._lead)
            if changed:
                log.info("signing_key_added", active_in_seconds=self._lead.total_seconds())
        if len(keys) > 1:
            changed = await self._store.forget(self._keep) > 0 or changed
        return changed

    async def keep_fresh(self) -> None:
        """Refreshes until cancelled; an absent database is waited for."""
        while True:
            try:
                async with self._refreshing:
                    await self.refresh()
                pause = REFRESH_SECONDS
            except DomainError as error:
                log.warning("signing_keys_not_read", error=error.message)
                pause = 1.0
            await asyncio.sleep(pause)

    async def _usable(self) -> _Ring:
        ring = self._ring
        if ring is None or time.monotonic() - ring.read_at > _STALE_SECONDS:
            async with self._refreshing:
                if self._ring is ring:
                    await self.refresh()
            ring = self._ring
            assert ring is not None
        return ring

    def _open_newest(self, keys: list[StoredKey]) -> tuple[StoredKey, ec.EllipticCurvePrivateKey] | None:
        for key in keys:
            if key.age < timedelta(0):
                continue
            try:
                der = self._cipher.open(key.public.key_id, key.sealed_private_key)
            except CannotOpen:
                log.error("signing_key_not_opened", key_id=key.public.key_id, hint="was GUILDMESH_MASTER_KEY changed?")
                continue
            private_key = load_der_private_key(der, password=None)
            assert isinstance(private_key, ec.EllipticCurvePrivateKey)
            return key, private_key
        return None

    def _new_key(self, age: timedelta) -> StoredKey:
        private_key = ec.generate_private_key(ec.SECP256R1())
        numbers = private_key.public_key().public_numbers()
        key_id = new_id()
        der = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return StoredKey(PublicKey(key_id, _coordinate(numbers.x), _coordinate(numbers.y)), self._cipher.seal(key_id, der), age)


def _coordinate(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes(_COORDINATE_BYTES, "big")).decode().rstrip("=")
