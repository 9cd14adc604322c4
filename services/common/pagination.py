"""Pages of a list (AIP-158): opaque tokens that are bound to the arguments they were given for and grant no authority."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence

from services.common.errors import InvalidPageToken

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 200


def page_size(requested: int) -> int:
    """The number of items to give: 0 means the default, too many is brought down to the maximum."""
    return min(requested, MAX_PAGE_SIZE) if requested > 0 else DEFAULT_PAGE_SIZE


def encode_token(arguments: Mapping[str, object], cursor: Sequence[str]) -> str:
    """A URL-safe token for the page after `cursor`, valid only for the same `arguments`."""
    raw = json.dumps([_digest(arguments), *cursor], ensure_ascii=False, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode_token(token: str, arguments: Mapping[str, object]) -> list[str] | None:
    """The cursor in `token`; None for the first page.

    Raises:
        InvalidPageToken: the token was not given for these arguments.
    """
    if not token:
        return None
    try:
        values = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except ValueError as error:
        raise InvalidPageToken from error
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InvalidPageToken
    if not values or values[0] != _digest(arguments):
        raise InvalidPageToken
    return values[1:]


def _digest(arguments: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(arguments, sort_keys=True, default=str).encode()).hexdigest()[:16]
