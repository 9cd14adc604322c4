"""Moves of a schedule: runs that are due or asked for, pauses, and runs of a time that is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from guildmesh.scheduler.v1 import task_pb2

from services.scheduler.domain.schedule import MissedRunPolicy, OverlapPolicy, Schedule
from services.scheduler.domain.task import State
from services.scheduler.server.schedule_convert import scheduled_task
from services.scheduler.usecases.backfill_schedule import BackfillSchedule
from services.scheduler.usecases.pause_schedule import PauseSchedule
from services.scheduler.usecases.resume_schedule import ResumeSchedule
from services.scheduler.usecases.trigger_schedule import TriggerSchedule
from tests.integration.scheduler.task_life.clock_model import ClockModel
from tests.integration.scheduler.task_life.model import TENANT, Model
from tests.integration.scheduler.task_life.task_moves import TaskMoves

_PRIORITY, _ATTEMPTS = 2, 2
# Not due by itself while a test runs: only when a test has it due, at minutes that are over.
_NEVER = datetime(2100, 1, 1, tzinfo=UTC)
_DUE = """
UPDATE schedules SET next_time = $3, wake_time = $3, start_time = NULL, end_time = $4 WHERE tenant_id = $1 AND schedule_id = $2
"""
_MADE = "SELECT task_id::text FROM tasks WHERE tenant_id = $1 AND kind = $2 ORDER BY position"
_COUNTS = """
SELECT run_count, skipped_count, buffered_time IS NOT NULL, paused FROM schedules WHERE tenant_id = $1 AND schedule_id = $2
"""
_DELETE = "DELETE FROM schedules WHERE tenant_id = $1 AND schedule_id = $2"
_HOUR = timedelta(hours=1)


class ClockMoves(TaskMoves):
    """What is done to the machine's schedule."""

    clock: ClockModel

    def make_clock(self, policy: OverlapPolicy, missed: MissedRunPolicy) -> None:
        """The schedule, none of whose runs is due."""
        self.clock = ClockModel(policy, missed)
        task = task_pb2.Task(
            description="clock", kind=self.kind, queue=self.kind, priority=_PRIORITY, max_attempts=_ATTEMPTS, concurrency_key="x"
        )
        schedule = Schedule(
            TENANT, self.kind, "* * * * *", task.SerializeToString(), "ada", overlap_policy=policy, missed_run_policy=missed,
            catch_up_window=timedelta(days=300), start_time=_NEVER, uid=self.uid,
        )  # fmt: skip
        self.world.do(self.world.schedules.create(schedule))

    def come(self, number: int) -> None:
        """So many of its times have come, all of them long ago; with 0 it is only looked at."""
        if number and not self.clock.paused:
            first = datetime.now(UTC).replace(second=0, microsecond=0) - _HOUR * self.clock.turn()
            self.world.query(_DUE, TENANT, self.kind, first, first + timedelta(minutes=number - 1))
        active = [model for model in self.models.values() if model.task_id in self.clock.tasks and not model.state.ended]
        outcome = self.clock.fire(number, active=bool(active))
        while self.world.do(self.world.due.fire()).schedules:
            pass
        if outcome.cancels and outcome.starts:
            for model in active:
                # One may be below another, which has cancelled it.
                if not model.state.ended:
                    model.end(State.CANCELLED, "cancelled")
            self.cascade(active)
        self._made(outcome.starts)
        self.world.seen["run"] += outcome.starts
        self.world.seen["skipped"] += outcome.skipped
        self.compare_clock()

    def trigger(self, name: str) -> None:
        """A run that is asked for, perhaps once more."""
        trigger = TriggerSchedule(self.world.schedules, scheduled_task)
        task = self.world.do(trigger.execute(TENANT, self.kind, name, "ada"))
        if name and name in self.clock.asked:
            assert [task.task_id] == self.clock.asked[name]
            return
        self.clock.asked[name] = [model.task_id for model in self._made(1)]
        assert self.clock.asked[name] == [task.task_id]
        self.compare_clock()

    def backfill(self, name: str, number: int) -> None:
        """Runs of minutes that are over, perhaps once more."""
        first = datetime(2026, 1, 1, number, tzinfo=UTC)
        backfill = BackfillSchedule(self.world.schedules, scheduled_task)
        last = first + timedelta(minutes=number - 1)
        tasks = self.world.do(backfill.execute(TENANT, self.kind, first, last, f"{name} {number}", "ada"))
        known = self.clock.asked.get(f"{name} {number}")
        if known is None:
            known = self.clock.asked[f"{name} {number}"] = [model.task_id for model in self._made(number)]
        assert [task.task_id for task in tasks] == known
        self.compare_clock()

    def pause_clock(self) -> None:
        """It starts nothing by itself; what waited for its turn is skipped."""
        self.world.do(PauseSchedule(self.world.schedules).execute(TENANT, self.kind, ""))
        self.clock.pause()
        self.compare_clock()

    def resume_clock(self) -> None:
        """It goes on with what comes from now on."""
        self.world.do(ResumeSchedule(self.world.schedules).execute(TENANT, self.kind, ""))
        self.clock.paused = False
        self.compare_clock()

    def compare_clock(self) -> None:
        """The schedule counts what its model counts."""
        clock = self.clock
        assert self.world.query(_COUNTS, TENANT, self.kind) == [(clock.runs, clock.skipped, clock.buffered, clock.paused)]

    def forget_clock(self) -> None:
        """Nobody looks at it any more."""
        self.world.query(_DELETE, TENANT, self.kind)

    def _made(self, number: int) -> list[Model]:
        """The schedule has created so many tasks, and nobody any other."""
        made = [str(row[0]) for row in self.world.query(_MADE, TENANT, self.kind) if row[0] not in self.models]
        assert len(made) == number
        self.clock.tasks.update(made)
        self.clock.runs += number
        return [self.keep(task_id, _PRIORITY, _ATTEMPTS, key="x") for task_id in made]
