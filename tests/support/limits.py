"""A queue with a limit, written as an operator would by SQL."""

from __future__ import annotations

from contextlib import closing

import psycopg2

_LIMIT = "INSERT INTO scheduler.queues (tenant_id, queue, priority, max_running) VALUES (%s, 'default', 5, %s)"


def limit_queue(url: str, tenant_id: str, most: int) -> None:
    """Gives a tenant a queue `default` of its own, in which at most so many tasks run at once."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
        cursor.execute(_LIMIT, (tenant_id, most))
