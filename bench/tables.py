"""What the scheduler's tables say after a run; the only place of the benchmarks that knows their names."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection

from bench.errors import BenchFailed

# Both are answered from the partial indexes of the runs that are not over.
_OPEN = """
SELECT EXISTS (SELECT FROM scheduler.task_runs WHERE state = 1)
  OR EXISTS (SELECT FROM scheduler.task_runs WHERE state IN (1, 2) AND deadline IS NOT NULL)
"""
_UNPUBLISHED = "SELECT EXISTS (SELECT FROM scheduler.outbox)"
# Completed by the first attempt, with exactly the events created, started and completed.
_COMPLETED_ONCE = """
SELECT count(*) FROM scheduler.task_runs
WHERE task_id = ANY (%s::uuid[]) AND state = 3 AND attempt = 1 AND next_event_number = 4
"""


class Tables:
    """Reads as the scheduler's engine role, which sees every tenant."""

    def __init__(self, connection: Connection) -> None:
        """Reads through `connection`."""
        self._connection = connection

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
def tables(database_url: str) -> Iterator[Tables]:
    """The tables of the scheduler in a database."""
    connection = psycopg2.connect(database_url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SET ROLE scheduler_engine")
        yield Tables(connection)
    finally:
        connection.close()
