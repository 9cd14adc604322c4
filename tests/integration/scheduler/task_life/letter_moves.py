"""Moves of dead letters: replayed, once or again, one by one or all, and dismissed."""

from __future__ import annotations

import pytest

from services.scheduler.domain.errors import TaskNotFailed
from services.scheduler.domain.task import State
from services.scheduler.domain.task_filter import Condition
from tests.integration.scheduler.task_life.life import TENANT
from tests.integration.scheduler.task_life.model import Model
from tests.integration.scheduler.task_life.task_moves import TaskMoves

_MANY = 1000
_OPEN = (Condition("replayed", "=", 0),)


class LetterMoves(TaskMoves):
    """What is done to tasks that failed."""

    def replay(self, model: Model, *, again: bool) -> None:
        """One task; it gives its replay when there is one."""
        replaying = self.world.failed.replay(TENANT, model.task_id, "ada", again=again, request_id="")
        if model.state is not State.FAILED:
            with pytest.raises(TaskNotFailed):
                self.world.do(replaying)
            return
        replay = self.world.do(replaying)
        if model.replay and not again:
            assert replay.task_id == model.replay
            self.world.seen["replayed before"] += 1
        else:
            self._replayed(model, replay.task_id)

    def replay_all(self) -> None:
        """All that were not, the oldest first."""
        wanted = {m.task_id for m in self.models.values() if m.state is State.FAILED and not m.replay and not m.dismissed}
        replays = self.world.do(self.world.failed.replay_many(TENANT, self.kind, (), _MANY, "ada"))
        assert {task_id for task_id, _ in replays.replayed} == wanted
        assert len(replays.replayed) == len(wanted)
        assert replays.left == 0
        for task_id, replay_id in replays.replayed:
            self._replayed(self.models[task_id], replay_id)

    def dismiss(self) -> None:
        """All that were not replayed."""
        wanted = [m for m in self.models.values() if m.state is State.FAILED and not m.replay and not m.dismissed]
        assert self.world.do(self.world.letters.dismiss(TENANT, self.kind, _OPEN, _MANY)) == (len(wanted), 0)
        for model in wanted:
            model.dismissed = True

    def _replayed(self, model: Model, replay_id: str) -> None:
        """A new task like the failed one, which waits for what that one waited for, and has no parent."""
        assert replay_id not in self.models
        model.replay = replay_id
        times = "timed" if model.timed else ""
        replay = self.keep(replay_id, model.priority, model.max_attempts, times=times, key=model.key)
        replay.patient = replay.patient or model.patient
        if model.needs:
            self.block(replay, {task_id: self.models[task_id] for task_id in model.needs}, model.policy)
        self.world.seen["replayed"] += 1
