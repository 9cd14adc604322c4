"""Where a watcher of many tasks is: an offset in each partition of the events topic.

Kafka gives offsets to what is committed there, in the order in which it is; so nothing with a smaller one can come later, as it
could behind a number that a transaction of PostgreSQL draws before it commits (docs/decisions/0016-watch.md).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence

from services.common.wire import varint
from services.scheduler.domain.errors import InvalidResumeToken
from services.scheduler.domain.shards import SHARDS

Positions = tuple[int, ...]
"""offset of the next record, for each of the SHARDS partitions."""

_VERSION = 1
_LARGEST = 1 << 63


def encode_positions(positions: Iterable[int]) -> str:
    """The resume token of a place: letters, digits, - and _."""
    token = bytes([_VERSION]) + b"".join(map(varint, positions))
    return base64.urlsafe_b64encode(token).decode().rstrip("=")


def decode_positions(token: str) -> Positions:
    """The place of a resume token; raises InvalidResumeToken."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidResumeToken from error
    if not raw or raw[0] != _VERSION or (len(raw) > 1 and raw[-1] >= 0x80):
        raise InvalidResumeToken
    found: list[int] = []
    value = shift = 0
    for byte in raw[1:]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            found.append(value)
            value = shift = 0
    if len(found) != SHARDS or max(found) >= _LARGEST:
        raise InvalidResumeToken
    return tuple(found)


def reaches(positions: Sequence[int], others: Sequence[int]) -> bool:
    """Whether a place is at or behind another one in every partition."""
    return all(mine >= other for mine, other in zip(positions, others, strict=True))
