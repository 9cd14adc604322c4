"""Encryption of events with the key of a user: AES-SIV with AES-256 (RFC 5297).

The bytes of a record must come out the same however often they are made, so there is no random nonce. With most ciphers two texts
under one nonce would tell of each other. With AES-SIV, whose initialization vector is a keyed digest of the text and of what
belongs to it, the worst that a repeat tells is that the same event was encrypted twice. The task and the number are in that
digest: a ciphertext that is moved to another event does not open.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

KEY_BITS = 512
"""of which AES-SIV takes one half for the digest, the other for the text."""
_EVENT = "guildmesh.events.v1.TaskEvent"


def new_key() -> bytes:
    """A random key."""
    return AESSIV.generate_key(KEY_BITS)


class EventCipher:
    """Encrypts with one key."""

    def __init__(self, key_id: str, key: bytes) -> None:
        self._key_id = key_id
        self._aead = AESSIV(key)

    def seal(self, task_id: str, number: int, event: bytes) -> bytes:
        """An event (guildmesh.events.v1.TaskEvent, serialized), encrypted; 16 bytes longer."""
        return self._aead.encrypt(event, [self._belongs(task_id, number)])

    def open(self, task_id: str, number: int, sealed: bytes) -> bytes:
        """What `seal` was given; raises ValueError for anything else."""
        try:
            return self._aead.decrypt(sealed, [self._belongs(task_id, number)])
        except InvalidTag as error:
            raise ValueError(f"event {number} of the task {task_id} was not encrypted with this key") from error

    def _belongs(self, task_id: str, number: int) -> bytes:
        return f"{_EVENT}/{self._key_id}/{task_id}/{number}".encode()
