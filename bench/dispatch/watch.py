"""What the run itself does beside the replicas: looks at the lease table, and makes new tasks."""

from __future__ import annotations

import threading
from contextlib import closing

from bench.dispatch.loads import LONGEST, Load
from bench.dispatch.schema import add_tasks, engine

_LOOK_SECONDS = 0.1
_KEPT = 100
_EXCEEDED = """
WITH busy AS (
  SELECT t.queue, t.concurrency_key, count(*) AS running FROM tasks t WHERE t.state = 2 GROUP BY GROUPING SETS ((1), (1, 2))
  HAVING GROUPING(t.concurrency_key) = 1 OR t.concurrency_key IS NOT NULL
)
SELECT count(*) FROM busy b JOIN dispatch_queues q USING (queue)
WHERE b.running > CASE WHEN b.concurrency_key IS NULL THEN q.max_running ELSE q.max_per_key END
"""
_WAITING = "SELECT count(*) FROM tasks WHERE state = 1 AND queue = 'q0' AND tenant_id = %s"


class Watch:
    """Runs beside a run until it is left."""

    def __init__(self, url: str, load: Load) -> None:
        self.looks = 0
        self.exceeded = 0
        """limits that were exceeded in the lease table, summed over all looks."""
        self.problems: list[str] = []
        self._url, self._load = url, load
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(self._look,))]
        if load.trickle:
            self._threads.append(threading.Thread(target=self._run, args=(self._submit,)))

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, step: object) -> None:
        assert callable(step)
        try:
            with closing(engine(self._url)) as connection, connection.cursor() as cursor:
                while not self._stopped.wait(_LOOK_SECONDS):
                    step(cursor)
        except Exception as problem:
            self.problems.append(repr(problem))

    def _look(self, cursor) -> None:  # type: ignore[no-untyped-def]
        cursor.execute(_EXCEEDED)
        self.exceeded += cursor.fetchone()[0]
        self.looks += 1

    def _submit(self, cursor) -> None:  # type: ignore[no-untyped-def]
        add_tasks(cursor, self._load.trickle, 0.01, 1)
        cursor.execute(_WAITING, (self._load.topped_up,))
        missing = _KEPT - cursor.fetchone()[0]
        if missing > 0:
            add_tasks(cursor, self._load.topped_up, LONGEST, missing)
