"""What a schedule is, and which of its runs start when: plain functions of the schedule and of the database's time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from itertools import chain, islice

from services.common.errors import InvalidRequest
from services.scheduler.domain.cron import Cron, cron_of
from services.scheduler.domain.errors import BackfillTooLarge, InvalidCron, InvalidTimeZone

DEFAULT_TIME_ZONE = "UTC"
DEFAULT_CATCH_UP = timedelta(days=1)
MISSED_AFTER = timedelta(seconds=60)
"""a run that is later than this was missed: replicas take over from each other within seconds, a restart takes less."""
MOST_LABELS = 30
"""labels of a schedule's task, which has 32 at most: each run adds two."""
SCHEDULE_ID_LABEL = "guildmesh.schedule_id"
SCHEDULE_TIME_LABEL = "guildmesh.schedule_time"
MOST_TRACKED = 100
"""tasks of a schedule that its overlap policy looks at, the latest ones."""
MOST_BACKFILLED = 500
MOST_BACKFILLED_BYTES = 32 << 20
"""of the contexts of tasks that one call creates."""
PREVIEWED = 5
_INSTANT = timedelta(microseconds=1)


class OverlapPolicy(IntEnum):
    """What happens to a run that is due while earlier ones go on; the numbers are those of the contract and of the database."""

    ALLOW = 1
    SKIP = 2
    BUFFER_ONE = 3
    CANCEL_RUNNING = 4


class MissedRunPolicy(IntEnum):
    """What happens to runs that were missed; the numbers are those of the contract and of the database."""

    SKIP = 1
    RUN_LAST = 2
    RUN_ALL = 3


@dataclass(slots=True)
class Schedule:
    """A schedule as its tenant sees it, and what it needs to go on."""

    tenant_id: str
    schedule_id: str
    cron: str
    task: bytes
    """guildmesh.scheduler.v1.Task as it was asked for, without its context, serialized."""
    created_by: str
    context: bytes | None = None
    """google.protobuf.Struct, serialized; None when there is none or it was not asked for."""
    context_payload: str | None = None
    """id of the payload that is the context of its tasks, instead of `context`."""
    time_zone: str = DEFAULT_TIME_ZONE
    overlap_policy: OverlapPolicy = OverlapPolicy.SKIP
    missed_run_policy: MissedRunPolicy = MissedRunPolicy.RUN_LAST
    catch_up_window: timedelta = DEFAULT_CATCH_UP
    jitter: timedelta = timedelta()
    paused: bool = False
    note: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    uid: str = ""
    """a UUID, so that what was done for a deleted schedule of the same id is not taken for this one's."""
    version: int = 1
    create_time: datetime | None = None
    update_time: datetime | None = None
    next_time: datetime | None = None
    """the earliest time of cron that is not dealt with; None when there is none, or while it is paused."""
    wake_time: datetime | None = None
    """when that run is due, jitter included."""
    buffered_time: datetime | None = None
    """the time of the run that waits for the end of earlier ones."""
    last_run_time: datetime | None = None
    last_task_id: str | None = None
    run_count: int = 0
    skipped_count: int = 0
    last_error: str = ""
    active_task_ids: tuple[str, ...] = ()
    """tasks that it has started and that are not known to have ended, the oldest first."""

    @property
    def times(self) -> Cron:
        """Its times; raises InvalidCron or InvalidTimeZone."""
        return cron_of(self.cron, self.time_zone)

    @property
    def etag(self) -> str:
        """Another one after each change that somebody makes."""
        return f"{self.uid[-12:]}-{self.version}"

    def due(self, time: datetime) -> datetime:
        """When the run of a time is due: jitter later, by the same amount whoever asks."""
        if not self.jitter:
            return time
        digest = hashlib.sha256(f"{self.uid} {time.timestamp():.0f}".encode()).digest()
        return time + self.jitter * (int.from_bytes(digest[:4], "big") / (1 << 32))

    def request_id(self, *parts: object) -> str:
        """The request id of a run that `parts` name: there can be no second task for it, whatever else goes wrong.

        It is longer than any that a caller may choose, so that none of theirs is in its way.
        """
        digest = hashlib.sha256("\n".join(map(str, (self.uid, *parts))).encode()).hexdigest()
        return f"guildmesh.schedule/{digest}"

    def check(self) -> None:
        """Raises InvalidCron, InvalidTimeZone, or InvalidRequest for a time that ends before it starts."""
        _ = self.times
        if self.start_time is not None and self.end_time is not None and self.end_time < self.start_time:
            raise InvalidRequest([("schedule.end_time", "must not be before schedule.start_time")])

    def plan(self, now: datetime) -> None:
        """Decides on the next run, none of those up to now."""
        self.next_time = self.wake_time = None
        if self.paused:
            # What waits for the end of others would start in the pause.
            self.skipped_count += self.buffered_time is not None
            self.buffered_time = None
            return
        after = now if self.start_time is None else max(now, self.start_time - _INSTANT)
        self.move(next(self._between(after), None))

    def move(self, time: datetime | None) -> None:
        """Has the run of `time` come next."""
        self.next_time = time
        self.wake_time = None if time is None else self.due(time)

    def preview(self) -> list[datetime]:
        """When the next runs are due."""
        if self.next_time is None:
            return []
        try:
            return [self.due(time) for time in islice(self.upcoming(), PREVIEWED)]
        except (InvalidCron, InvalidTimeZone):
            # Whoever tries to start that run will pause it. Until then it can be looked at.
            return [self.due(self.next_time)]

    def upcoming(self) -> Iterator[datetime]:
        """The times that are not dealt with, in order."""
        return iter(()) if self.next_time is None else chain([self.next_time], self._between(self.next_time))

    def within(self, first: datetime, last: datetime) -> list[datetime]:
        """The times from `first` to `last`; raises BackfillTooLarge."""
        times: list[datetime] = []
        most = min(MOST_BACKFILLED, max(1, MOST_BACKFILLED_BYTES // max(1, len(self.context or b""))))
        for time in self.times.after(first - _INSTANT):
            if time > last:
                break
            if len(times) == most:
                raise BackfillTooLarge(most)
            times.append(time)
        return times

    def started(self, task_ids: Sequence[str], now: datetime) -> None:
        """Notes tasks of runs that start now."""
        if not task_ids:
            return
        self.run_count += len(task_ids)
        self.last_task_id = task_ids[-1]
        self.last_run_time = now
        self.last_error = ""
        self.active_task_ids = (*self.active_task_ids, *task_ids)[-MOST_TRACKED:]

    def stop(self, error: str, now: datetime) -> None:
        """Pauses it because it cannot run."""
        self.paused = True
        self.last_error = error
        self.plan(now)
        self.changed(now)

    def changed(self, now: datetime) -> None:
        """Notes that somebody has changed it."""
        self.version += 1
        self.update_time = now

    def _between(self, after: datetime) -> Iterator[datetime]:
        for time in self.times.after(after):
            if self.end_time is not None and time > self.end_time:
                return
            yield time


@dataclass(slots=True)
class DueRuns:
    """What a look at a schedule's due runs came to, before its overlap policy is asked."""

    start: list[datetime]
    """times of the runs to start, the oldest first."""
    skipped: int
    next: datetime | None
    """the first time that was not looked at."""
    looked_at: int


def due_runs(schedule: Schedule, now: datetime, most_times: int, most_runs: int) -> DueRuns:
    """Which of the runs that are due start, and which are skipped because they were missed.

    After a long outage it looks at `most_times` and starts `most_runs` at most; the next look goes on from there.
    """
    start: list[datetime] = []
    skipped = looked_at = 0
    latest: datetime | None = None
    upcoming: datetime | None = None
    more = False
    for time in schedule.upcoming():
        late = now - schedule.due(time)
        if late < timedelta():
            upcoming = time
            break
        if looked_at >= most_times or len(start) >= most_runs:
            upcoming, more = time, True
            break
        looked_at += 1
        if late <= MISSED_AFTER:
            start.append(time)
        elif late > schedule.catch_up_window or schedule.missed_run_policy is MissedRunPolicy.SKIP:
            skipped += 1
        elif schedule.missed_run_policy is MissedRunPolicy.RUN_ALL:
            start.append(time)
        else:
            skipped += latest is not None
            latest = time
    if latest is not None:
        if more or start:
            skipped += 1
        else:
            start = [latest]
    return DueRuns(start, skipped, upcoming, looked_at)


@dataclass(slots=True)
class Overlap:
    """What an overlap policy makes of runs that are to start."""

    start: list[datetime]
    skipped: int = 0
    buffered: datetime | None = None
    cancel: bool = False
    """whether the earlier ones are cancelled."""


def overlap(policy: OverlapPolicy, wanted: Sequence[datetime], buffered: datetime | None, *, active: bool) -> Overlap:
    """What becomes of runs, the oldest first, and of the one that waits; `active` says whether earlier ones go on."""
    line = [*([] if buffered is None else [buffered]), *wanted]
    if not line:
        return Overlap([])
    if policy is OverlapPolicy.ALLOW:
        return Overlap(line)
    if policy is OverlapPolicy.CANCEL_RUNNING:
        return Overlap(line[-1:], len(line) - 1, cancel=active)
    start = [] if active else line[:1]
    rest = line[len(start) :]
    if policy is OverlapPolicy.BUFFER_ONE and rest:
        return Overlap(start, len(rest) - 1, buffered=rest[0])
    return Overlap(start, len(rest))
