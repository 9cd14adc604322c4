"""From where on a look has to begin, so that it does not walk over what is long gone.

An index keeps its entries of deleted and changed rows until vacuum takes them, and vacuum may not while any transaction, even
an idle one of somebody else, is older than they are. Looks that begin at the beginning of an index then take ever longer: after
two minutes at 500 tasks a second a lease walked over 40,000 entries. A mark says below what nothing can be.

What is written in a transaction is seen by others when it commits. Transactions of the scheduler end within 8 s
(services.common.db.driver), so what was begun `SETTLED` seconds ago is seen, or never will be. Where that is not so (a disk holds
a commit up, an old PostgreSQL) a look over everything finds what was missed, every `EVERYTHING` seconds.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta

SETTLED = 15.0
EVERYTHING = 60.0
BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


class TimeMark:
    """For rows that are looked for by a moment, which lies in the future when it is written."""

    def __init__(self) -> None:
        self._since = BEGINNING
        self._everything_at = 0.0
        self._everything = False

    def since(self, now: float) -> datetime:
        """After what moment to look; `now` is of the monotonic clock."""
        if now >= self._everything_at:
            self._everything_at = now + EVERYTHING
            self._everything = True
        return BEGINNING if self._everything else self._since

    def done(self, looked: datetime) -> None:
        """Says that whatever was due at `looked`, by the database's clock, has been found."""
        self._everything = False
        self._since = looked - timedelta(seconds=SETTLED)


class PositionMark:
    """For rows that are looked for in the order of positions, which grow."""

    def __init__(self) -> None:
        self._above = self._settled = 0
        self._meanwhile: int | None = None
        self._given: deque[tuple[float, int]] = deque()
        self._everything_at = 0.0

    def above(self, now: float) -> int:
        """Above what position to look; `now` is of the monotonic clock."""
        if now >= self._everything_at:
            self._everything_at = now + EVERYTHING
            return 0
        return self._above

    def begin(self) -> None:
        """Says that a look over everything begins: what is there again while it looks it may not see."""
        self._meanwhile = None

    def seen(self, first: int | None, given: int, now: float) -> None:
        """Says what a look found first (None: nothing), and a position that had been given by then."""
        if not self._given or now >= self._given[-1][0] + 1:
            self._given.append((now, given))
        while self._given and self._given[0][0] <= now - SETTLED:
            self._settled = max(self._settled, self._given.popleft()[1])
        self._above = self._settled if first is None else min(self._settled, first - 1)
        if self._meanwhile is not None:
            self._above = min(self._above, self._meanwhile - 1)

    def back(self, position: int) -> None:
        """Says that something is there again, at its old position."""
        self._above = min(self._above, position - 1)
        self._meanwhile = position if self._meanwhile is None else min(self._meanwhile, position)
