"""Times as people write them on a command line."""

from __future__ import annotations

import re
from datetime import datetime

from guildmesh_client.cli.errors import CommandError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


def seconds_of(text: str, option: str) -> float:
    """The seconds of a duration such as "90s", "15m" or "1h30m".

    Raises:
        CommandError: it is none.
    """
    if not re.fullmatch(f"({_PART.pattern})+", text):
        raise CommandError(f"{option} {text!r} is not a duration; write it as 90s, 15m, 2h or 1d.")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def moment_of(text: str, option: str) -> datetime:
    """The moment of a time with a zone, such as "2026-12-01T09:00:00+01:00".

    Raises:
        CommandError: it is none.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise CommandError(f"{option} must be a time with a zone, such as 2026-12-01T09:00:00+01:00, not {text!r}.")
    return moment
