"""Encryption of keys at rest with a master key (AES-256-GCM)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12  # NIST SP 800-38D, 8.2: 96 bits


class CannotOpen(Exception):
    """The text was not sealed with this master key, or it was changed."""


class KeyCipher:
    """Seals bytes for a name; a sealed text moved to another name does not open.

    Raises:
        ValueError: the master key is not base64 of 32 bytes.
    """

    def __init__(self, master_key: str, variable: str = "GUILDMESH_MASTER_KEY") -> None:
        """`variable` is the setting that the key comes from."""
        try:
            key = base64.b64decode(master_key, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != 32:
            raise ValueError(f"{variable} must be base64 of 32 bytes; make one with 'openssl rand -base64 32'.")
        self._aead = AESGCM(key)
        self.master_key_id = hashlib.sha256(b"guildmesh master key " + key).hexdigest()[:16]
        """tells master keys from one another, and nothing of them."""

    def seal(self, name: str, plain: bytes) -> bytes:
        """A fresh nonce and the encrypted text."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, name.encode())

    def open(self, name: str, sealed: bytes) -> bytes:
        """The plain bytes. Raises CannotOpen."""
        try:
            return self._aead.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError) as error:
            # ValueError: it is too short to have been sealed at all.
            raise CannotOpen from error
