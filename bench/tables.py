"""What the scheduler's tables say after a run; the only place of the benchmarks that knows their names."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from bench.errors import BenchFailed

_OPEN = "SELECT EXISTS (SELECT FROM scheduler.tasks)"
_UNPUBLISHED = "SELECT EXISTS (SELECT FROM scheduler.outbox)"
# Completed by the first attempt, with exactly the events created, started and completed.
_COMPLETED_ONCE = """
SELECT count(*) FROM scheduler.finished_tasks
WHERE task_id = ANY (%s::uuid[]) AND state = 3 AND attempt = 1 AND next_event_number = 4 AND result IS NOT NULL
"""
# A start after an end at the same moment may have had its slot.
_MOST_AT_ONCE = """
SELECT COALESCE(max(running), 0) FROM (
  SELECT sum(change) OVER (PARTITION BY queue ORDER BY at, change) AS running FROM (
    SELECT f.queue, m.at, m.change FROM scheduler.finished_tasks f
    CROSS JOIN LATERAL (VALUES (f.start_time, 1), (f.finish_time, -1)) AS m (at, change)
    WHERE f.kind = %s
  ) c
) r
"""
_COLUMNS = """
SELECT column_name FROM information_schema.columns
WHERE table_schema = 'scheduler' AND table_name = 'finished_tasks' AND column_name <> 'task_id' AND is_generated = 'NEVER'
ORDER BY ordinal_position
"""
# Copies of rows that the scheduler has written, so that each is as wide as a real one; a task every 10 ms until now.
_PRELOAD = """
INSERT INTO scheduler.finished_tasks (task_id, {columns})
SELECT uuidv7((place - %(rows)s) * interval '10 milliseconds'), {columns}
FROM generate_series(1, %(rows)s) place
JOIN (SELECT row_number() OVER () - 1 AS line, * FROM scheduler.finished_tasks LIMIT %(samples)s) sample
  ON sample.line = place %% %(samples)s
"""
_SAMPLES = 1_000


class Tables:
    """Reads as the scheduler's engine role, which sees every tenant."""

    def __init__(self, connection: Connection, superuser_url: str) -> None:
        """Reads through `connection`."""
        self._connection = connection
        self._superuser_url = superuser_url

    def wait_completed(self, seconds: float) -> float:
        """Waits until no task is open; gives the moment by the monotonic clock.

        Raises:
            BenchFailed: some still are.
        """
        self._wait(_OPEN, seconds, "tasks are still open")
        return time.monotonic()

    def wait_quiet(self, seconds: float) -> None:
        """Waits until no task is open and nothing waits for Kafka, so that a run does not carry the one before.

        Raises:
            BenchFailed: something still does.
        """
        self._wait(_OPEN, seconds, "tasks are still open")
        self._wait(_UNPUBLISHED, seconds, "events are still not on Kafka")

    def require_completed_once(self, ids: Sequence[str]) -> None:
        """Raises BenchFailed unless each task was completed by its first attempt, and none is missing."""
        if len(set(ids)) != len(ids):
            raise BenchFailed(f"{len(ids):,} tasks have only {len(set(ids)):,} ids")
        found = self._value(_COMPLETED_ONCE, (list(ids),))
        if found != len(ids):
            raise BenchFailed(f"of {len(ids):,} tasks {found:,} were completed exactly once")

    def rows(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """What a statement finds."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall()

    def most_at_once(self, kind: str) -> int:
        """How many tasks of a kind ran at once at most in one queue, by what the table says of starts and ends."""
        return int(self._value(_MOST_AT_ONCE, (kind,)))

    def preload(self, rows: int) -> None:
        """Adds finished tasks, as if they had been run before, and does what would follow in the background at once."""
        with self._connection.cursor() as cursor:
            cursor.execute(_COLUMNS)
            columns = sql.SQL(", ").join(sql.Identifier(name) for (name,) in cursor.fetchall())
            cursor.execute("SELECT least(count(*), %s) FROM scheduler.finished_tasks", (_SAMPLES,))
            samples = cursor.fetchone()[0]  # type: ignore[index]
            cursor.execute(sql.SQL(_PRELOAD).format(columns=columns), {"rows": rows, "samples": samples})
        # A table that grew over weeks has been vacuumed, analysed and written to disk long ago.
        superuser = psycopg2.connect(self._superuser_url)
        try:
            superuser.autocommit = True
            with superuser.cursor() as cursor:
                cursor.execute("VACUUM (ANALYZE) scheduler.finished_tasks")
                cursor.execute("CHECKPOINT")
        finally:
            superuser.close()

    def finished(self) -> int:
        """How many finished tasks there are."""
        return int(self._value("SELECT count(*) FROM scheduler.finished_tasks"))

    def _wait(self, question: str, seconds: float, problem: str) -> None:
        end = time.monotonic() + seconds
        while self._value(question):
            if time.monotonic() > end:
                raise BenchFailed(f"after {seconds:.0f} s {problem}")
            time.sleep(0.005)

    def _value(self, statement: str, values: Sequence[object] = ()) -> Any:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            row = cursor.fetchone()
            assert row is not None
            return row[0]


@contextmanager
def tables(database_url: str, superuser_url: str) -> Iterator[Tables]:
    """The tables of the scheduler in a database."""
    connection = psycopg2.connect(database_url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SET ROLE scheduler_engine")
        yield Tables(connection, superuser_url)
    finally:
        connection.close()
