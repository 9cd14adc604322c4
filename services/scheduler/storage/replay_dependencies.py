"""What replays depend on: the replays of what their tasks depended on, as far as that was replayed and is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asyncpg
from guildmesh.scheduler.v1.task_pb2 import Task as TaskMessage

from services.scheduler.domain.task import NewTask, Task
from services.scheduler.storage.replay_choice import latest_replays

_THERE = """
SELECT task_id::text FROM tasks WHERE tenant_id = $1 AND task_id = ANY($2::uuid[])
UNION ALL SELECT task_id::text FROM finished_tasks WHERE tenant_id = $1 AND task_id = ANY($2::uuid[])
"""


class ReplayDependencies:
    """What the replays of some tasks depend on."""

    def __init__(self, specs: Mapping[str, TaskMessage], latest: Mapping[str, str], there: set[str]) -> None:
        """`specs` of the tasks that depended on others, `latest` replays of those, and which of these are `there`."""
        self._specs = specs
        self._latest = dict(latest)
        self._there = there

    @classmethod
    async def read(cls, connection: asyncpg.Connection, tenant_id: str, tasks: Sequence[Task]) -> ReplayDependencies:
        """Reads them for tasks to replay."""
        specs = {task.task_id: spec for task in tasks if (spec := TaskMessage.FromString(task.spec)).dependencies}
        if not specs:
            return cls({}, {}, set())
        wanted = {dependency.task_id.lower() for spec in specs.values() for dependency in spec.dependencies}
        latest = await latest_replays(connection, tenant_id, wanted)
        rows = await connection.fetch(_THERE, tenant_id, sorted({latest.get(each, each) for each in wanted}))
        return cls(specs, latest, {row[0] for row in rows})

    def mend(self, task: Task) -> None:
        """Has the spec of a task depend on what its replay is to depend on; nobody could on what is not kept any more."""
        if (spec := self._specs.get(task.task_id)) is None:
            return
        kept = {}
        for dependency in spec.dependencies:
            task_id = self._latest_of(dependency.task_id.lower())
            if task_id in self._there and task_id not in kept:
                # Its name stays, by which the worker asks for the result.
                dependency.task_id = task_id
                kept[task_id] = dependency
        del spec.dependencies[:]
        spec.dependencies.extend(kept.values())
        task.spec = spec.SerializeToString()

    def replayed(self, task_id: str, replay: NewTask) -> None:
        """Has those that come depend on a replay that is created together with theirs."""
        if self._specs:
            self._latest[task_id] = replay.task_id
            self._there.add(replay.task_id)

    def _latest_of(self, task_id: str) -> str:
        # What it was last replayed as may be replayed now.
        task_id = self._latest.get(task_id, task_id)
        return self._latest.get(task_id, task_id)
