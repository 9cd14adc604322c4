"""Identifiers."""

from __future__ import annotations

import re

import uuid_utils

_ID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def new_id() -> str:
    """A new UUIDv7 (RFC 9562) as text: unique, and ordered by the time it was made."""
    return str(uuid_utils.uuid7())


def is_id(text: str) -> bool:
    """Whether `text` is a UUID in its usual form; anything else cannot name a row."""
    return _ID.fullmatch(text) is not None
