"""Dead letters of one tenant, under its row security: listed, and dismissed.

A dead letter whose task is in a partition that was taken out (services.scheduler.storage.partitions) is on its way out with it,
and is seen as little as its task.
"""
# ruff: noqa: S608 - the names in the statements are ours, the values are arguments

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from services.common.db.driver import Driver
from services.common.failpoints import fail_point
from services.scheduler.domain.dead_letter import DeadLetter, LetterPage, LetterPlace
from services.scheduler.domain.dead_letter_filter import Conditions

LOOKED_AT = 5000
"""dead letters that a page looks at."""
COUNTED = 100_000
"""dead letters that are counted of those that are left."""
COLUMNS = "task_id, tenant_id, queue, kind, reason, attempts, fail_time, replay_task_id, replay_time"
KEPT = """NOT EXISTS (
  SELECT FROM task_partitions p WHERE p.detach_time IS NOT NULL AND p.retention_days = d.retention_days
    AND d.task_id >= p.lower_id AND d.task_id < p.upper_id
)"""
"""of a dead letter d: its task is seen."""
_GET = f"SELECT {COLUMNS} FROM dead_letters d WHERE tenant_id = $1 AND task_id = $2 AND dismiss_time IS NULL AND {KEPT}"
# What is looked at for a page is limited, and the page ends there if it is not full before.
_LIST = f"""
WITH looked AS MATERIALIZED (
  SELECT {COLUMNS}, retention_days FROM dead_letters
  WHERE {{along}} ORDER BY fail_time DESC, task_id DESC LIMIT {LOOKED_AT}
), edge AS (
  SELECT fail_time, task_id FROM looked ORDER BY fail_time, task_id LIMIT 1
)
SELECT edge.fail_time AS edge_time, edge.task_id AS edge_id, (SELECT count(*) FROM looked) = {LOOKED_AT} AS more, found.*
FROM edge LEFT JOIN LATERAL (
  SELECT {COLUMNS} FROM looked d WHERE {KEPT}{{besides}} ORDER BY fail_time DESC, task_id DESC LIMIT {{limit}} + 1
) found ON true
"""
_DISMISS = f"""
WITH found AS MATERIALIZED (
  SELECT task_id FROM dead_letters d WHERE {{along}} AND {KEPT}{{besides}}
  ORDER BY fail_time, task_id LIMIT {{limit}} FOR UPDATE OF d
)
UPDATE dead_letters u SET dismiss_time = clock_timestamp() FROM found
WHERE u.task_id = found.task_id AND u.tenant_id = $1 AND u.dismiss_time IS NULL
"""
_LEFT = f"""
SELECT count(*) FROM (SELECT FROM dead_letters d WHERE {{along}} AND {KEPT}{{besides}} LIMIT {COUNTED}) counted
"""
_TYPES = {"attempts": "int", "fail_time": "timestamptz"}
_OPERATORS = {"!=": "<>"}


@dataclass(slots=True)
class Wanted:
    """Which dead letters of a queue a statement is about."""

    tenant_id: str
    queue: str
    conditions: Conditions
    after: LetterPlace | None = None
    task_ids: Sequence[str] | None = None
    """only those of these tasks."""
    arguments: list[object] = field(default_factory=list)
    along: str = ""
    """conditions that the index answers."""
    besides: str = ""
    """the others, each with AND before it."""

    def __post_init__(self) -> None:
        along = [f"tenant_id = {self._given(self.tenant_id)}", f"queue = {self._given(self.queue)}", "dismiss_time IS NULL"]
        for condition in self.conditions:
            if condition.field == "replayed":
                along.append(f"replay_time IS {'NOT ' if condition.value else ''}NULL")
                continue
            place = self._given(condition.value, _TYPES.get(condition.field, "text"))
            text = f"{condition.field} {_OPERATORS.get(condition.operator, condition.operator)} {place}"
            if condition.field == "fail_time":
                along.append(text)
            else:
                self.besides += f" AND {text}"
        if self.after is not None:
            moment, task_id = self._given(self.after.fail_time, "timestamptz"), self._given(self.after.task_id, "uuid")
            along.append(f"fail_time <= {moment} AND (fail_time < {moment} OR task_id < {task_id})")
        if self.task_ids is not None:
            self.besides += f" AND task_id = ANY({self._given(list(self.task_ids), 'uuid[]')})"
        self.along = " AND ".join(along)

    def statement(self, text: str, limit: int = 0) -> str:
        """A statement about these."""
        return text.format(along=self.along, besides=self.besides, limit=limit)

    def _given(self, value: object, type_: str = "text") -> str:
        self.arguments.append(value)
        return f"${len(self.arguments)}::{type_}"


class DeadLetters:
    """Reads and dismisses dead letters for their tenant."""

    def __init__(self, database: Driver) -> None:
        self._database = database

    async def get(self, tenant_id: str, task_id: str) -> DeadLetter | None:
        """The dead letter; None when there is none, or it was dismissed."""
        async with self._database.tenant(tenant_id) as connection:
            row = await connection.fetchrow(_GET, tenant_id, task_id)
        return None if row is None else _letter(row)

    async def list(self, tenant_id: str, queue: str, conditions: Conditions, after: LetterPlace | None, limit: int) -> LetterPage:
        """At most `limit` dead letters of a queue, the latest first, from a place on; see DeadLetterStore."""
        wanted = Wanted(tenant_id, queue, conditions, after)
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.fetch(wanted.statement(_LIST, limit), *wanted.arguments)
        letters = [_letter(row) for row in rows if row["task_id"] is not None]
        if len(letters) > limit:
            last = letters[limit - 1]
            return LetterPage(letters[:limit], LetterPlace(last.fail_time, last.task_id))
        more = bool(rows) and rows[0]["more"]
        return LetterPage(letters, LetterPlace(rows[0]["edge_time"], str(rows[0]["edge_id"])) if more else None)

    async def dismiss(self, tenant_id: str, queue: str, conditions: Conditions, limit: int) -> tuple[int, int]:
        """Dismisses at most `limit`, the oldest first; gives how many, and how many are left, counted up to COUNTED."""
        wanted = Wanted(tenant_id, queue, conditions)
        async with self._database.tenant(tenant_id) as connection:
            done: str = await connection.execute(wanted.statement(_DISMISS, limit), *wanted.arguments)
            left = await left_of(connection, wanted)
            await fail_point("scheduler.dismiss.before_commit", connection.terminate)
        await fail_point("scheduler.dismiss.after_commit")
        return int(done.rpartition(" ")[2]), left


async def left_of(connection: asyncpg.Connection, wanted: Wanted) -> int:
    """How many dead letters are meant, counted up to COUNTED."""
    left: int = await connection.fetchval(wanted.statement(_LEFT), *wanted.arguments)
    return left


def _letter(row: asyncpg.Record) -> DeadLetter:
    replay: str | None = None if row["replay_task_id"] is None else str(row["replay_task_id"])
    fail_time: datetime = row["fail_time"]
    return DeadLetter(
        str(row["task_id"]), row["tenant_id"], row["queue"], row["kind"], row["reason"], row["attempts"], fail_time, replay,
        row["replay_time"],
    )  # fmt: skip
