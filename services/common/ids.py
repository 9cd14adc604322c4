"""Identifiers."""

from __future__ import annotations

import uuid

import uuid_utils


def new_id() -> str:
    """A new UUIDv7 (RFC 9562) as text: unique, and ordered by the time it was made."""
    return str(uuid_utils.uuid7())


def is_id(text: str) -> bool:
    """Whether `text` is a UUID in its usual form; anything else cannot name a row."""
    try:
        return len(text) == 36 and bool(uuid.UUID(text))
    except ValueError:
        return False
