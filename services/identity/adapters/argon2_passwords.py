"""Passwords hashed with argon2id."""

from __future__ import annotations

import asyncio
import os
import secrets
from functools import cached_property

from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError
from pwdlib.hashers.argon2 import Argon2Hasher

from services.identity.domain.ports import Verification

# OWASP Password Storage Cheat Sheet: argon2id with 19 MiB, 2 passes, 1 lane. Stronger parameters later rehash at the next login.
_MEMORY_KIB = 19 * 1024
_PASSES = 2
_LANES = 1


class Argon2Passwords:
    """Implements the port Passwords; hashes in threads, at most one a core, so that memory and the other calls stay bounded."""

    def __init__(self) -> None:
        self._hasher = PasswordHash((Argon2Hasher(_PASSES, _MEMORY_KIB, _LANES),))
        self._slots = asyncio.Semaphore(os.cpu_count() or 1)

    async def hash(self, password: str) -> str:
        """A salted argon2id hash in PHC format."""
        async with self._slots:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def verify(self, password: str, password_hash: str | None) -> Verification:
        """Checks `password` against a hash, or for as long against one that nothing matches."""
        async with self._slots:
            return await asyncio.to_thread(self._verify, password, password_hash)

    def _verify(self, password: str, password_hash: str | None) -> Verification:
        try:
            valid, new_hash = self._hasher.verify_and_update(password, password_hash or self._unmatched)
        except UnknownHashError:
            return Verification(False)
        if password_hash is None:
            return Verification(False)
        return Verification(valid, new_hash)

    @cached_property
    def _unmatched(self) -> str:
        return self._hasher.hash(secrets.token_hex(16))
