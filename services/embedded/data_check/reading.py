"""How the checks read, and what several of them go by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg2.extensions

_PAGE = 2000
# After this a sweep should have noticed; it comes every second, and a busy machine may be late.
SWEPT_SECONDS = 60
# A partition that was taken out is seen by nobody; what its tasks leave behind goes with it, bit by bit.
LEAVING = """
SELECT FROM task_partitions p WHERE p.detach_time IS NOT NULL AND {task_id} >= p.lower_id AND {task_id} < p.upper_id
"""


def read_rows(connection: psycopg2.extensions.connection, statement: str, *arguments: object) -> list[Any]:
    """The rows of a statement, all at once."""
    with connection.cursor() as cursor:
        cursor.execute(statement, arguments)
        return list(cursor.fetchall())


def stream_rows(connection: psycopg2.extensions.connection, statement: str) -> Iterator[Any]:
    """The rows of a statement, page by page: one such reading at a time."""
    with connection.cursor(name="doctor") as cursor:
        cursor.itersize = _PAGE
        cursor.execute(statement)
        yield from cursor


def count_rows(connection: psycopg2.extensions.connection, *tables: str) -> int:
    """How many rows several tables have together."""
    return sum(int(read_rows(connection, f"SELECT count(*) FROM {table}")[0][0]) for table in tables)  # noqa: S608 - our names
