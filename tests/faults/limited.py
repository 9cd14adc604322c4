"""A queue with limits that every load uses, and whether the limits hold: in the table of leases, and at the workers."""

from __future__ import annotations

import itertools
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
from guildmesh.scheduler.v1 import task_pb2

from tests.faults.history import Operation

QUEUE = "limited"
MAX_RUNNING = 8
MAX_RUNNING_PER_KEY = 4
_KEYS = 3
_SHARE = 4
"""one of so many tasks is of this queue."""
_LOOK_SECONDS = 0.01
_MAKE = """
INSERT INTO scheduler.queues (tenant_id, queue, priority, max_running, max_running_per_key) VALUES ('*', %s, 5, %s, %s)
ON CONFLICT DO NOTHING
"""
# Until then tasks may have started in another way (docs/decisions/0013-dispatch-owner.md).
_SETTLED = "SELECT settled FROM scheduler.decided_queues WHERE tenant_id = '*' AND queue = %s"
_RUNNING = """
SELECT concurrency_key, count(*) FROM scheduler.tasks WHERE state = 2 AND queue = %s GROUP BY ROLLUP (concurrency_key)
"""


def make(url: str) -> None:
    """Makes the queue, every tenant's, as an operator would by SQL."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
        cursor.execute(_MAKE, (QUEUE, MAX_RUNNING, MAX_RUNNING_PER_KEY))


def settled(url: str) -> bool:
    """Whether the limits hold by now."""
    with closing(psycopg2.connect(url, connect_timeout=5)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
        return _settled(cursor)


def owner_port(url: str) -> int:
    """The port of the scheduler that decides what starts of it."""
    with closing(psycopg2.connect(url, connect_timeout=5)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
        cursor.execute("SELECT address FROM scheduler.dispatch_owners")
        return int(cursor.fetchone()[0].rpartition(":")[2])


def running(url: str) -> int:
    """How many tasks of it are leased."""
    with closing(psycopg2.connect(url, connect_timeout=5)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
        cursor.execute("SELECT count(*) FROM scheduler.tasks WHERE state = 2 AND queue = %s", (QUEUE,))
        return int(cursor.fetchone()[0])


def put_in(task: task_pb2.Task, tag: str) -> None:
    """Puts some tasks, by their tags, into the queue."""
    number = zlib.crc32(tag.encode())
    if number % _SHARE == 0:
        task.queue, task.concurrency_key = QUEUE, f"k{number // _SHARE % _KEYS}"


def tags(prefix: str, number: int) -> list[str]:
    """Tags of tasks that are all of the queue."""
    found: list[str] = []
    for each in itertools.count():
        if len(found) == number:
            return found
        if zlib.crc32(f"{prefix}-{each}".encode()) % _SHARE == 0:
            found.append(f"{prefix}-{each}")
    raise AssertionError("unreachable")


@contextmanager
def watched(url: str, surprises: list[str]) -> Iterator[None]:
    """Looks at the leases all the time; what is more than the limits allow is told, once."""
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(url, surprises, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(url: str, surprises: list[str], stop: threading.Event) -> None:
    settled, told = False, set[str]()
    while not stop.wait(_LOOK_SECONDS):
        try:
            with closing(psycopg2.connect(url, connect_timeout=5)) as connection, connection.cursor() as cursor:
                connection.autocommit = True
                cursor.execute("SET ROLE scheduler_engine")
                while not settled and not stop.wait(0.2):
                    settled = _settled(cursor)
                while not stop.wait(_LOOK_SECONDS):
                    cursor.execute(_RUNNING, (QUEUE,))
                    for problem in _more_than_may(dict(cursor.fetchall())):
                        if problem not in told:
                            told.add(problem)
                            surprises.append(problem)
        except psycopg2.Error:
            # The server is being restarted.
            time.sleep(0.1)


def _settled(cursor: Any) -> bool:
    cursor.execute(_SETTLED, (QUEUE,))
    return bool(cursor.fetchone() == (True,))


def _more_than_may(running: dict[str | None, int]) -> Iterator[str]:
    for key, number in running.items():
        limit = MAX_RUNNING if key is None else MAX_RUNNING_PER_KEY
        if number > limit:
            yield f"{number} tasks of the queue {QUEUE} are leased at once{'' if key is None else f' with the key {key}'}"


def more_at_workers(history: Iterable[Operation]) -> list[str]:
    """What ran at once at the workers beyond the limits, by their monotonic clock; a run whose worker was killed is left out."""
    changes: list[tuple[float, int, str]] = []
    for operation in history:
        if operation.what == "run" and operation.ended is not None and operation.asked["queue"] == QUEUE:
            for name in ("", operation.asked["key"]):
                changes += [(operation.begun, 1, name), (operation.ended, -1, name)]
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for _, change, name in sorted(changes):
        running[name] += change
        most[name] = max(most[name], running[name])
    return [
        f"{number} tasks of the queue {QUEUE}{f' with the key {name}' if name else ''} ran at once at the workers"
        for name, number in most.items()
        if number > (MAX_RUNNING_PER_KEY if name else MAX_RUNNING)
    ]
