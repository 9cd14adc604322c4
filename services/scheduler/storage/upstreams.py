"""What new tasks depend on: locked while it does not know of them, so that its end tells them, or counted when it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from services.common.errors import DomainError
from services.scheduler.domain.dependency import Dependency
from services.scheduler.domain.errors import TaskNotFound
from services.scheduler.domain.run import Run
from services.scheduler.domain.task import NewTask, State, Task
from services.scheduler.storage.cascade import cascade, end_dependant
from services.scheduler.storage.changelog import ChangeLog

_ACTOR = "scheduler"
_LOCK = """
SELECT tenant_id, task_id::text, state, kind, position, has_dependants FROM tasks
WHERE (task_id, tenant_id) IN (SELECT * FROM unnest($1::uuid[], $2::text[])) AND task_id = ANY($1)
ORDER BY task_id FOR NO KEY UPDATE
"""
_ENDED = """
SELECT tenant_id, task_id::text, state, error_reason FROM finished_tasks
WHERE (tenant_id, task_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[])) AND tenant_id = ANY($1) AND task_id = ANY($2)
"""
_MARK = """
UPDATE tasks SET has_dependants = true
WHERE (task_id, tenant_id) IN (SELECT * FROM unnest($1::uuid[], $2::text[])) AND task_id = ANY($1)
"""
_WRITE = """
INSERT INTO task_dependencies (tenant_id, task_id, upstream_id, place, name, failure_policy, upstream_state)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::smallint[], $5::text[], $6::smallint[], $7::smallint[])
"""
_Key = tuple[str, str]


async def lock_upstreams(
    connection: asyncpg.Connection, log: ChangeLog, items: Sequence[NewTask], answers: list[Task | DomainError | None]
) -> Upstreams | None:
    """Locks what the items depend on that has no answer yet, and answers those that depend on what is not there.

    None when no item depends on another, as nearly always.
    """
    places = [place for place, item in enumerate(items) if item.dependencies and answers[place] is None]
    if not places:
        return Upstreams({}) if any(item.has_dependants for item in items) else None
    together = {(item.tenant_id, item.task_id) for item in items if item.has_dependants}
    wanted = {(items[place].tenant_id, each.task_id) for place in places for each in items[place].dependencies} - together
    unended, ended = await _find(connection, log, sorted(wanted, key=lambda key: key[1]))
    for place in places:
        tenant_id = items[place].tenant_id
        for dependency in items[place].dependencies:
            key = (tenant_id, dependency.task_id)
            if key not in unended and key not in ended and key not in together:
                answers[place] = TaskNotFound(dependency.task_id)
                break
    return Upstreams(ended)


async def _find(
    connection: asyncpg.Connection, log: ChangeLog, wanted: Sequence[_Key]
) -> tuple[set[_Key], dict[_Key, tuple[State, str | None]]]:
    """Those of the tasks that have not ended, now locked and told that they have dependants, and how the others have ended."""
    unended: set[_Key] = set()
    ended: dict[_Key, tuple[State, str | None]] = {}
    if not wanted:
        return unended, ended
    unmarked = []
    for tenant_id, task_id, state, kind, position, marked in await connection.fetch(
        _LOCK, [key[1] for key in wanted], [key[0] for key in wanted]
    ):
        unended.add((tenant_id, task_id))
        if not marked:
            unmarked.append((tenant_id, task_id))
        if state == State.PENDING:
            _offer_again(log, kind, position)
    missing = [key for key in wanted if key not in unended]
    if missing:
        rows = await connection.fetch(_ENDED, [key[0] for key in missing], [key[1] for key in missing])
        ended = {(tenant_id, task_id): (State(state), reason) for tenant_id, task_id, state, reason in rows}
    if unmarked:
        await connection.execute(_MARK, [key[1] for key in unmarked], [key[0] for key in unmarked])
    return unended, ended


def _offer_again(log: ChangeLog, kind: str, position: int) -> None:
    """Has workers look once more for a task that waits for one: who looked while it was locked here has passed over it."""
    wake = log.wake
    wake.counted = False
    if wake.kinds is not None:
        wake.kinds.add(kind)
    wake.again = position if wake.again is None else min(wake.again, position)


class Upstreams:
    """What the tasks of one transaction depend on."""

    def __init__(self, ended: dict[_Key, tuple[State, str | None]]) -> None:
        """`ended` has the state and the reason of those that have ended; the others tell when they do."""
        self._ended = ended
        self._doomed: list[tuple[Run, Dependency]] = []

    def block(self, run: Run, item: NewTask) -> tuple[str, ...]:
        """Has a new run wait for its dependencies, whose ids it gives, and tells one of a graph that others wait for it."""
        run.has_dependants = item.has_dependants
        if not item.dependencies:
            return ()
        run.state = State.BLOCKED
        run.blocked_by = 0
        if item.times is not None:
            run.start_timeout_ms, run.start_by = item.times.start_timeout_ms, run.end_by
        doomed = False
        for dependency in item.dependencies:
            end = self._ended.get((item.tenant_id, dependency.task_id))
            if end is None:
                run.blocked_by += 1
            elif not doomed and not dependency.allows(end[0]):
                doomed = True
                self._doomed.append((run, dependency))
        return tuple(dependency.task_id for dependency in item.dependencies)

    def go_on(self, run: Run, log: ChangeLog, now: datetime) -> None:
        """Makes a run of which every dependency has ended well what it would be without any."""
        if run.blocked_by == 0 and not any(run is doomed for doomed, _ in self._doomed[-1:]):
            log.add(run, run.unblock(now), _ACTOR, now)
            # How many new tasks wait is known of those without dependencies.
            log.wake.counted = log.wake.counted and run.state is not State.PENDING

    async def write(
        self, connection: asyncpg.Connection, log: ChangeLog, items: Sequence[NewTask], runs: Sequence[Run], now: datetime
    ) -> None:
        """Keeps what the runs, which are inserted, depend on, and ends those that cannot start any more."""
        rows = [
            (
                item.tenant_id,
                item.task_id,
                dependency.task_id,
                place,
                dependency.name,
                int(dependency.policy),
                None if end is None else int(end[0]),
            )
            for item in items
            for place, dependency in enumerate(item.dependencies)
            for end in (self._ended.get((item.tenant_id, dependency.task_id)),)
        ]
        if rows:
            await connection.execute(_WRITE, *(list(column) for column in zip(*rows, strict=True)))
        if not self._doomed:
            return
        after = log.beside()
        ended = []
        for run, dependency in self._doomed:
            run.counted = State.BLOCKED
            state, reason = self._ended[run.tenant_id, dependency.task_id]
            end_dependant(after, run, dependency, state, reason, _ACTOR, now)
            ended.append(run)
        await cascade(connection, after, ended, {run.task_id: run for run in runs}, "The parent task has ended.", _ACTOR, now)
        await after.write(connection)
        log.wake.add(after.wake)
