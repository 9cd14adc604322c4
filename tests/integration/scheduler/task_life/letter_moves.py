"""Moves of dead letters: replayed, once or again, one by one or all, and dismissed."""

from __future__ import annotations

import pytest

from services.scheduler.domain.errors import TaskNotFailed
from services.scheduler.domain.task import State
from services.scheduler.domain.task_filter import Condition
from tests.integration.scheduler.task_life.model import Model
from tests.integration.scheduler.task_life.queue_model import QueueModel
from tests.integration.scheduler.task_life.task_moves import TaskMoves

_MANY, _SOME = 1000, 2
_OPEN = (Condition("replayed", "=", 0),)


class LetterMoves(TaskMoves):
    """What is done to tasks that failed."""

    def replay(self, model: Model, *, again: bool) -> None:
        """One task; it gives its replay when there is one."""
        replaying = self.world.failed.replay(model.tenant, model.task_id, "ada", again=again, request_id="")
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
        """All that were not, queue by queue, some at a time: what they depend on first, and nothing that fails anew."""
        for tenant, queue in self._homes():
            wanted = {model.task_id for model in self._open_in(tenant, queue)}
            before = None
            while True:
                replays = self.world.do(self.world.failed.replay_many(tenant, queue.name, (), before, _SOME, "ada"))
                assert len(replays.replayed) == min(len(wanted), _SOME)
                for task_id, replay_id in replays.replayed:
                    wanted.remove(task_id)
                    assert wanted.isdisjoint(self._latest(self.models[each]).task_id for each in self.models[task_id].needs)
                    self._replayed(self.models[task_id], replay_id)
                assert replays.left == len(wanted)
                if not wanted:
                    break
                before = replays.failed_before

    def dismiss(self) -> None:
        """All that were not replayed."""
        for tenant, queue in self._homes():
            wanted = self._open_in(tenant, queue)
            assert self.world.do(self.world.letters.dismiss(tenant, queue.name, _OPEN, _MANY)) == (len(wanted), 0)
            for model in wanted:
                model.dismissed = True

    def _homes(self) -> list[tuple[str, QueueModel]]:
        """Each queue, with each tenant that has tasks there."""
        return [(tenant, queue) for queue in self.queues for tenant in queue.tenants]

    def _open_in(self, tenant: str, queue: QueueModel) -> list[Model]:
        """What failed in a queue and was neither replayed nor dismissed."""
        there = [model for model in self.models.values() if model.home is queue and model.tenant == tenant]
        failed = [model for model in there if model.state is State.FAILED]
        return [model for model in failed if not model.replay and not model.dismissed]

    def _replayed(self, model: Model, replay_id: str) -> None:
        """A new task like the failed one, which waits for the replays of what that one waited for, and has no parent."""
        assert replay_id not in self.models
        model.replay = replay_id
        times = "timed" if model.timed else ""
        most, home = model.max_attempts, model.home
        replay = self.keep(replay_id, model.priority, most, times=times, key=model.key, queue=home, tenant=model.tenant)
        replay.patient = replay.patient or model.patient
        replay.context = model.context
        if model.needs:
            upstreams = [self._latest(self.models[task_id]) for task_id in model.needs]
            self.block(replay, {upstream.task_id: upstream for upstream in upstreams}, model.policy)
        self.world.seen["replayed"] += 1

    def _latest(self, model: Model) -> Model:
        """What stands for a task: if it was replayed, its newest replay, and if that was, the newest of that."""
        while model.replay:
            self.world.seen["stands for another"] += 1
            model = self.models[model.replay]
        return model
