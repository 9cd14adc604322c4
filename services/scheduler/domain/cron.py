"""When a schedule runs: cron expressions in time zones.

The times are those of Debian's cron (cronsim follows it, its ways with clock changes included). The zones are those of the
package tzdata, not of the machine, so that all replicas of one release agree on every time.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from importlib import resources
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from services.scheduler.domain.errors import InvalidCron, InvalidTimeZone

WORDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_SOME_TIME = datetime(2026, 1, 1, tzinfo=UTC)


class Cron:
    """The times of one expression in one zone."""

    def __init__(self, expression: str, time_zone: str) -> None:
        """Reads the expression.

        Raises:
            InvalidCron: it cannot be read, or no time meets it.
            InvalidTimeZone: there is no such zone.
        """
        self._zone = zone_of(time_zone)
        fields = WORDS.get(expression.strip().lower(), expression)
        if len(fields.split()) != 5:
            words = ", ".join(sorted(WORDS))
            raise InvalidCron(
                expression, f"it must have five fields (minute, hour, day, month, day of week) or be one of {words}"
            )
        # With its spaces as they are cronsim would take it for another kind of expression.
        self._fields = " ".join(fields.split())
        try:
            first = next(self.after(_SOME_TIME), None)
        except CronSimError as error:
            raise InvalidCron(expression, str(error).lower()) from None
        if first is None:
            raise InvalidCron(expression, "no day meets it")

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The times later than a moment, in order, in UTC; they end where none comes within 50 years."""
        last = moment
        try:
            for local in CronSim(self._fields, moment.astimezone(self._zone)):
                found = local.astimezone(UTC)
                # Asked in the second pass of an hour that the clock goes through twice, cronsim names times of the first.
                if found > last:
                    last = found
                    yield found
        except OverflowError:
            # Behind the last year that there is.
            return


@lru_cache(maxsize=4096)
def cron_of(expression: str, time_zone: str) -> Cron:
    """The times of an expression in a zone; raises InvalidCron or InvalidTimeZone."""
    return Cron(expression, time_zone)


@lru_cache(maxsize=1024)
def zone_of(name: str) -> tzinfo:
    """The zone of a name; raises InvalidTimeZone."""
    if name == "UTC":
        return UTC
    if name not in _names():
        raise InvalidTimeZone(name, difflib.get_close_matches(name, _names(), 3))
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, name)


@lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    return frozenset(resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())
