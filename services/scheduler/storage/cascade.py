"""What follows from the end of runs, in the transaction that ends them: subtasks are cancelled, and dependants told.

A subtask and a dependant are created under the row lock of the task that they belong to, which then says that it has some. So
once that row is locked, whoever reads them misses none. What ends by this is followed further, until nothing does.

What follows by dependencies may be more than one transaction should hold: after `MOST` of them the rest is left to the sweeper,
which finds in `unsettled_tasks` who has ended and is not told of everywhere, and goes on from there, also after a crash.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from services.scheduler.domain.dependency import DEPENDENCY_FAILED, Dependency, FailurePolicy
from services.scheduler.domain.run import Run
from services.scheduler.domain.task import State
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.runs import COLUMNS, cancel_run, lock_runs, runs_of

MOST = 2000
"""dependencies that one transaction looks at: a tenth of a second of a free machine, of the 8 s that it may take."""
_SETTLED = 10
"""ended tasks that the sweeper goes on with at once."""

# Who will end, and whose dependants are then told: so that a long chain is locked by one statement and not by one for each link.
# It is only a guess, made before the locks. The lateral parts make PostgreSQL look up each by an index, whatever it believes.
_REACH = """
WITH RECURSIVE ending (tenant_id, task_id, failed) AS (
  SELECT * FROM unnest($1::text[], $2::uuid[], $3::bool[])
  UNION
  SELECT e.tenant_id, n.task_id, true FROM ending e CROSS JOIN LATERAL (
    SELECT d.task_id FROM task_dependencies d
    WHERE e.failed AND d.tenant_id = e.tenant_id AND d.upstream_id = e.task_id AND d.upstream_state IS NULL
      AND d.failure_policy < 3
    UNION ALL
    SELECT c.task_id FROM tasks c WHERE c.tenant_id = e.tenant_id AND c.parent_task_id = e.task_id
  ) n
)
SELECT task_id::text, true AS ends FROM (SELECT task_id FROM ending LIMIT $4) e
UNION ALL
SELECT d.task_id::text, false FROM (SELECT * FROM ending LIMIT $4) e CROSS JOIN LATERAL (
  SELECT d.task_id FROM task_dependencies d
  WHERE d.tenant_id = e.tenant_id AND d.upstream_id = e.task_id AND d.upstream_state IS NULL LIMIT $4
) d LIMIT 2 * $4
"""
_LOCK_CHILDREN = f"""
WITH locked AS MATERIALIZED (
  SELECT {COLUMNS} FROM tasks
  WHERE (tenant_id, parent_task_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))
    AND tenant_id = ANY($1) AND parent_task_id = ANY($2)
  ORDER BY task_id FOR NO KEY UPDATE
)
SELECT *, clock_timestamp() AS now FROM locked
"""  # noqa: S608 - constants only
_EDGES = """
SELECT u.task_id::text, d.task_id::text, name, failure_policy FROM unnest($1::text[], $2::uuid[]) AS u (tenant_id, task_id)
CROSS JOIN LATERAL (
  SELECT d.task_id, name, failure_policy FROM task_dependencies d
  WHERE d.tenant_id = u.tenant_id AND d.upstream_id = u.task_id AND d.upstream_state IS NULL LIMIT $3
) d LIMIT $3
"""
# A plan that was made for few rows takes minutes for very many; from then on each is made for what it is given.
_MANY = 500
_PLAN_ANEW = "SET LOCAL plan_cache_mode = force_custom_plan"
_RESOLVE = """
UPDATE task_dependencies d SET upstream_state = c.state
FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::smallint[]) AS c (tenant_id, task_id, upstream_id, state)
WHERE d.tenant_id = c.tenant_id AND d.task_id = c.task_id AND d.upstream_id = c.upstream_id
  AND d.tenant_id = ANY($1) AND d.task_id = ANY($2)
"""
_COUNT_DOWN = """
UPDATE tasks t SET blocked_by = c.blocked_by, start_by = c.start_by
FROM unnest($1::text[], $2::uuid[], $3::int[], $4::timestamptz[]) AS c (tenant_id, task_id, blocked_by, start_by)
WHERE t.task_id = c.task_id AND t.tenant_id = c.tenant_id AND t.task_id = ANY($2)
"""
_LEAVE = """
INSERT INTO unsettled_tasks (tenant_id, task_id, state, error_reason)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::smallint[], $4::text[]) ON CONFLICT DO NOTHING
"""
_TAKE = f"""
DELETE FROM unsettled_tasks WHERE (tenant_id, task_id) IN (
  SELECT tenant_id, task_id FROM unsettled_tasks ORDER BY task_id LIMIT {_SETTLED} FOR UPDATE SKIP LOCKED
) RETURNING tenant_id, task_id::text, state, error_reason, clock_timestamp() AS now
"""  # noqa: S608 - constants only


async def cascade(
    connection: asyncpg.Connection,
    log: ChangeLog,
    ended: Sequence[Run],
    known: dict[str, Run],
    cause: str,
    actor: str,
    now: datetime,
) -> None:
    """Cancels what is left below `ended` runs, and ends or unblocks what depends on them; the log is the caller's to write.

    Args:
        connection: in the transaction that has the runs' rows locked.
        log: gets the changes.
        ended: runs that the transaction has ended.
        known: the runs that it has locked, by their ids; gets those that are locked here. What it has changed in them counts.
        cause: why subtasks are cancelled, for people.
        actor: who is told to have made the changes.
        now: a time after those locks.
    """
    todo = [run for run in ended if run.has_children or run.has_dependants]
    if todo:
        await _Cascade(connection, log, known, cause, actor, now).follow(todo)


async def settle(connection: asyncpg.Connection, log: ChangeLog, actor: str) -> int:
    """Goes on with some of what was left, in the caller's transaction; gives how many tasks that were, 0 when nothing is left."""
    rows = await connection.fetch(_TAKE)
    if rows:
        now = max(row["now"] for row in rows)
        ended = [_ended(row) for row in rows]
        await cascade(connection, log, ended, {run.task_id: run for run in ended}, "The parent task has ended.", actor, now)
    return len(rows)


def _ended(row: asyncpg.Record) -> Run:
    """A run that has ended, as far as its dependants need to know."""
    return Run(
        row["tenant_id"], row["task_id"], 0, State(row["state"]), "", "", 0, 0, 0, 0, 0, False, None, "", row["now"],
        error_reason=row["error_reason"], has_dependants=True,
    )  # fmt: skip


@dataclass(slots=True)
class _Cascade:
    connection: asyncpg.Connection
    log: ChangeLog
    known: dict[str, Run]
    cause: str
    actor: str
    now: datetime
    _looked: set[str] = field(default_factory=set)
    """tasks that were looked for, to be locked: one that is not known has ended."""
    _read: set[str] = field(default_factory=set)
    """runs whose subtasks and dependants are known."""
    _children: dict[str, list[str]] = field(default_factory=dict)
    _dependants: dict[str, list[tuple[str, Dependency]]] = field(default_factory=dict)
    _resolved: list[tuple[Run, Run]] = field(default_factory=list)
    """dependants and what they wait for no longer."""
    _left: int = field(default_factory=lambda: MOST)
    """dependencies that this transaction may still look at."""
    _unsettled: dict[str, Run] = field(default_factory=dict)

    async def follow(self, todo: Sequence[Run]) -> None:
        """Follows what has ended until nothing more ends."""
        while todo:
            await self._look(todo)
            todo = self._walk(todo)
        await self._write()

    async def _look(self, todo: Sequence[Run]) -> None:
        """Reads who belongs to these runs, and to those that will end with them, and locks it."""
        runs = list(todo)
        if any(run.has_dependants and self._fails(run) for run in todo):
            columns = zip(*((run.tenant_id, run.task_id, self._fails(run)) for run in todo), strict=True)
            reached = await self.connection.fetch(_REACH, *(list(column) for column in columns), max(self._left, 1))
            await self._lock(row["task_id"] for row in reached)
            ending = {row["task_id"] for row in reached if row["ends"]} - {run.task_id for run in todo}
            runs += [self.known[task_id] for task_id in ending if task_id in self.known]
        runs = [run for run in runs if run.task_id not in self._read and (run.has_children or run.has_dependants)]
        await self._read_children([run for run in runs if run.has_children])
        await self._read_dependants([run for run in runs if run.has_dependants])
        self._read.update(run.task_id for run in runs)
        await self._lock(task_id for run in runs for task_id, _ in self._dependants.get(run.task_id, ()))

    def _fails(self, run: Run) -> bool:
        """Whether more may end by a dependency on this run, in this transaction."""
        return self._left > 0 and run.state is not State.COMPLETED

    async def _lock(self, task_ids: Iterable[str]) -> None:
        missing = {task_id for task_id in task_ids if task_id not in self.known and task_id not in self._looked}
        if len(missing) > _MANY:
            await self.connection.execute(_PLAN_ANEW)
        if missing:
            locked, now = await lock_runs(self.connection, missing)
            self._looked |= missing
            self.known |= locked
            self.now = max(self.now, now)

    async def _read_children(self, parents: Sequence[Run]) -> None:
        if not parents:
            return
        columns = [run.tenant_id for run in parents], [run.task_id for run in parents]
        children, now = runs_of(await self.connection.fetch(_LOCK_CHILDREN, *columns))
        for child in children.values():
            # A run that this transaction has changed already is newer in memory than in its row.
            self.known.setdefault(child.task_id, child)
            self._children.setdefault(str(child.parent_task_id), []).append(child.task_id)
        self.now = max(self.now, now) if children else self.now

    async def _read_dependants(self, runs: Sequence[Run]) -> None:
        if not runs:
            return
        if self._left <= 0:
            self._unsettled.update((run.task_id, run) for run in runs)
            return
        rows = await self.connection.fetch(_EDGES, [run.tenant_id for run in runs], [run.task_id for run in runs], self._left)
        for upstream_id, task_id, name, policy in rows:
            dependency = Dependency(upstream_id, name, FailurePolicy(policy))
            self._dependants.setdefault(upstream_id, []).append((task_id, dependency))
        if len(rows) >= self._left:
            # They come run by run: those of the last may not be all, and the runs behind it have none here.
            whole = {row[0] for row in rows} - {rows[-1][0]}
            self._unsettled.update((run.task_id, run) for run in runs if run.task_id not in whole)
        self._left -= len(rows)

    def _walk(self, todo: Sequence[Run]) -> list[Run]:
        """Follows what is read; gives those that ended and are not."""
        line, unread = deque(todo), []
        while line:
            run = line.popleft()
            if run.task_id not in self._read:
                unread.append(run)
                continue
            for task_id in self._children.pop(run.task_id, ()):
                child = self.known.get(task_id)
                if child is not None and not child.state.ended:
                    cancel_run(self.log, child, self.cause, self.actor, self.now)
                    self._ends(child, line)
            for task_id, dependency in self._dependants.pop(run.task_id, ()):
                dependant = self.known.get(task_id)
                if dependant is not None and dependant.state is State.BLOCKED:
                    self._tell(dependant, dependency, run)
                    if dependant.state.ended:
                        self._ends(dependant, line)
        return unread

    def _ends(self, run: Run, line: deque[Run]) -> None:
        if run.has_children or run.has_dependants:
            line.append(run)

    def _tell(self, dependant: Run, dependency: Dependency, upstream: Run) -> None:
        """Tells a BLOCKED run of the end of one of its dependencies."""
        if dependency.allows(upstream.state):
            dependant.blocked_by = (dependant.blocked_by or 0) - 1
            self._resolved.append((dependant, upstream))
            if dependant.blocked_by == 0:
                self.log.add(dependant, dependant.unblock(self.now), self.actor, self.now)
            return
        end_dependant(self.log, dependant, dependency, upstream.state, upstream.error_reason, self.actor, self.now)

    async def _write(self) -> None:
        resolved = [(run, upstream) for run, upstream in self._resolved if not run.state.ended]
        if resolved:
            columns = zip(*((run.tenant_id, run.task_id, up.task_id, int(up.state)) for run, up in resolved), strict=True)
            await self.connection.execute(_RESOLVE, *(list(column) for column in columns))
        # The log writes the others, whose count is 0.
        counted = {
            run.task_id: run for run, _ in resolved if run.state is State.BLOCKED or run.start_timeout_ms is not None
        }.values()
        if counted:
            columns = zip(*((run.tenant_id, run.task_id, run.blocked_by, run.start_by) for run in counted), strict=True)
            await self.connection.execute(_COUNT_DOWN, *(list(column) for column in columns))
        unsettled = [run for run in self._unsettled.values() if run.state.ended]
        if unsettled:
            columns = zip(*((run.tenant_id, run.task_id, int(run.state), run.error_reason) for run in unsettled), strict=True)
            await self.connection.execute(_LEAVE, *(list(column) for column in columns))


def end_dependant(
    log: ChangeLog, run: Run, dependency: Dependency, state: State, reason: str | None, actor: str, now: datetime
) -> None:
    """Ends a BLOCKED run whose dependency has ended in `state`, as its policy says."""
    told = dependency.told(state, reason)
    if dependency.policy is FailurePolicy.CANCEL:
        log.add(run, run.cancel(told, now), actor, now)
    else:
        log.add(run, run.fail(DEPENDENCY_FAILED, told, now), actor, now)
