"""The master keys of a process: what is kept sealed is sealed with the newest, and opened with whichever sealed it."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.key_cipher import CannotOpen, KeyCipher


class MasterKeys:
    """Seals bytes for a name, and opens what any of its keys has sealed for that name. True when there is a key."""

    def __init__(self, ciphers: Sequence[KeyCipher] = ()) -> None:
        """The first one is the newest."""
        self._ciphers = {cipher.master_key_id: cipher for cipher in reversed(ciphers)}
        self._newest = ciphers[0] if ciphers else None

    def __bool__(self) -> bool:
        return self._newest is not None

    @property
    def newest_id(self) -> str | None:
        """The id of the key that seals; None without keys."""
        return self._newest.master_key_id if self._newest is not None else None

    def seal(self, name: str, plain: bytes) -> bytes:
        """The sealed bytes; they are kept with `newest_id`. There must be a key."""
        assert self._newest is not None
        return self._newest.seal(name, plain)

    def open(self, master_key_id: str, name: str, sealed: bytes) -> bytes:
        """The plain bytes; raises CannotOpen when the key is none of these, or it is not what was sealed for this name."""
        cipher = self._ciphers.get(master_key_id)
        if cipher is None:
            raise CannotOpen
        return cipher.open(name, sealed)
