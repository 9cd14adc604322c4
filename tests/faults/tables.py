"""A service's tables, as its engine role sees them."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import psycopg2


class Tables:
    """One connection that is kept, and opened anew after it was lost. Threads may share it."""

    def __init__(self, url: str, role: str = "scheduler_engine") -> None:
        self._url = url
        self._role = role
        self._connection: Any = None
        self._lock = threading.Lock()

    def query(self, statement: str, *arguments: object) -> list[Any]:
        """Rows of one statement.

        Raises:
            psycopg2.Error: the server does not answer; the next call connects anew.
        """
        with self._lock:
            if self._connection is None:
                self._connection = _connect(self._url, self._role)
            try:
                with self._connection.cursor() as cursor:
                    cursor.execute(statement, arguments)
                    return list(cursor.fetchall())
            except psycopg2.Error:
                self._drop()
                raise

    def close(self) -> None:
        """Ends the connection."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg2.Error):
                connection.close()


def _connect(url: str, role: str) -> Any:
    connection = psycopg2.connect(url, connect_timeout=5)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"SET ROLE {role}")
    return connection
