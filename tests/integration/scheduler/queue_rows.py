"""Rows of `queues` for tests, written as an operator would by SQL, and what the tables say of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import psycopg2

_INSERT = """
INSERT INTO scheduler.queues (tenant_id, queue, priority, max_running, max_running_per_key, rate_per_second, rate_burst, paused,
  tenant_weights)
VALUES (%(tenant_id)s, %(queue)s, %(priority)s, %(max_running)s, %(max_running_per_key)s, %(rate_per_second)s, %(rate_burst)s,
  %(paused)s, %(tenant_weights)s)
"""
_SETTLED = "SELECT 1 FROM scheduler.decided_queues WHERE tenant_id = %s AND queue = %s AND settled"
_DECIDED = "SELECT 1 FROM scheduler.decided_queues WHERE tenant_id = %s AND queue = %s"
_NOTHING = {"max_running": None, "max_running_per_key": None, "rate_per_second": None, "rate_burst": None}


class QueueRows:
    """The rows of one database."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg2.connect(url)
        self._connection.autocommit = True
        self.query("SET ROLE scheduler_engine")

    def query(self, statement: str, *values: Any) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def add(self, queue: str, tenant_id: str = "*", **columns: Any) -> None:
        weights = json.dumps(columns.pop("tenant_weights", {}))
        row = {"tenant_id": tenant_id, "queue": queue, "priority": 5, "paused": False, "tenant_weights": weights}
        with self._connection.cursor() as cursor:
            cursor.execute(_INSERT, _NOTHING | row | columns)

    def change(self, queue: str, **columns: Any) -> None:
        for name, value in columns.items():
            self.query(f"UPDATE scheduler.queues SET {name} = %s, version = version + 1 WHERE queue = %s", value, queue)

    async def decided(self, queue: str, tenant_id: str = "*", *, settled: bool = False) -> None:
        """Waits until one replica decides for the queue."""
        async with asyncio.timeout(30):
            while not self.query(_SETTLED if settled else _DECIDED, tenant_id, queue):  # noqa: ASYNC110 - in another process
                await asyncio.sleep(0.02)

    def running(self, queue: str) -> int:
        return int(self.query("SELECT count(*) FROM scheduler.tasks WHERE queue = %s AND state = 2", queue)[0][0])

    def close(self) -> None:
        self._connection.close()
