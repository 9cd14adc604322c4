"""What a schedule should do, by its policies alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.scheduler.domain.schedule import MissedRunPolicy, OverlapPolicy


@dataclass(frozen=True)
class Outcome:
    """What becomes of the runs that are due."""

    starts: int
    skipped: int = 0
    cancels: bool = False
    """whether what runs of it is cancelled."""


@dataclass
class ClockModel:
    """A schedule, as it should be."""

    policy: OverlapPolicy
    missed: MissedRunPolicy
    paused: bool = False
    buffered: bool = False
    """a run waits for the end of those before."""
    runs: int = 0
    skipped: int = 0
    tasks: set[str] = field(default_factory=set)
    """all that it has started."""
    asked: dict[str, list[str]] = field(default_factory=dict)
    """tasks of runs that somebody asked for, by the request."""
    turns: int = 1

    def turn(self) -> int:
        """How many hours ago the next runs were due: no time comes twice."""
        self.turns += 1
        return self.turns

    def pause(self) -> None:
        """Nothing starts, and what waited does not either."""
        self.paused = True
        self.skipped += self.buffered
        self.buffered = False

    def fire(self, due: int, *, active: bool) -> Outcome:
        """So many of its times were missed; `active` says whether earlier runs go on."""
        if self.paused:
            return Outcome(0)
        wanted = {MissedRunPolicy.RUN_ALL: due, MissedRunPolicy.RUN_LAST: min(due, 1), MissedRunPolicy.SKIP: 0}[self.missed]
        skipped = due - wanted
        line = wanted + self.buffered
        self.buffered = False
        if self.policy is OverlapPolicy.ALLOW:
            starts = line
        elif self.policy is OverlapPolicy.CANCEL_RUNNING:
            starts = min(line, 1)
        else:
            starts = 0 if active else min(line, 1)
            self.buffered = self.policy is OverlapPolicy.BUFFER_ONE and line > starts
        skipped += line - starts - self.buffered
        self.skipped += skipped
        return Outcome(starts, skipped, self.policy is OverlapPolicy.CANCEL_RUNNING and active)
