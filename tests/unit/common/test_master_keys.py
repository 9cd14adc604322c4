"""The newest master key seals, each of them opens what it sealed, and nothing else opens anything."""

from __future__ import annotations

import base64
import os

import pytest

from services.common.key_cipher import CannotOpen, KeyCipher
from services.common.master_keys import MasterKeys


def a_cipher() -> KeyCipher:
    return KeyCipher(base64.b64encode(os.urandom(32)).decode())


def test_the_newest_key_seals_and_all_of_them_open() -> None:
    new, old = a_cipher(), a_cipher()
    before, both, after = MasterKeys([old]), MasterKeys([new, old]), MasterKeys([new])
    assert (before.newest_id, both.newest_id) == (old.master_key_id, new.master_key_id)
    of_old, of_new = before.seal("name", b"plain"), both.seal("name", b"plain")
    assert both.open(old.master_key_id, "name", of_old) == both.open(new.master_key_id, "name", of_new) == b"plain"
    assert after.open(new.master_key_id, "name", of_new) == b"plain"
    for keys, key_id, name, sealed in (
        (after, old.master_key_id, "name", of_old),
        (both, new.master_key_id, "name", of_old),
        (both, new.master_key_id, "other", of_new),
        (both, new.master_key_id, "name", of_new[:-1]),
        (both, new.master_key_id, "name", b""),
    ):
        with pytest.raises(CannotOpen):
            keys.open(key_id, name, sealed)


def test_none_are_false() -> None:
    assert not MasterKeys()
    assert MasterKeys().newest_id is None
    assert MasterKeys([a_cipher()])
