"""Spans of statements to PostgreSQL, by OpenTelemetry's stable semantic conventions for databases.

The instrumentation of OpenTelemetry for asyncpg would also do this in every call that is not sampled, which is nearly every one,
and once more for each connection of SQLAlchemy's. Here whoever is not sampled gets the connection itself.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from functools import lru_cache
from typing import Any, TypeVar

import asyncpg
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

R = TypeVar("R")
_OPERATION = re.compile(
    r"\b(INSERT)\s+INTO\s+([a-z_]\w*)|\b(DELETE)\s+FROM\s+([a-z_]\w*)|(?<!KEY )(?<!FOR )(?<!DO )\b(UPDATE)\s+([a-z_]\w*)"
    r"|\b(SELECT)\b(?:(?!\bSELECT\b).)*?\bFROM\s+([a-z_]\w*)\b(?!\s*\()",
    re.DOTALL,
)
# What a statement names itself is no table.
_NAMED_HERE = re.compile(r"\b([a-z_]\w*)(?:\s*\([^()]*\))?\s+AS\s+(?:NOT\s+)?(?:MATERIALIZED\s+)?\(")


class StatementSpans:
    """Makes the spans of the statements that go to one database."""

    def __init__(self, database: str, schema: str, host: str, port: int) -> None:
        """`database`, `schema`, `host` and `port` are what each span says about where its statement went."""
        self._tracer = trace.get_tracer("guildmesh.postgresql")
        self._where: dict[str, str | int] = {
            "db.system.name": "postgresql",
            "db.namespace": f"{database}|{schema}",
            "server.address": host,
            "server.port": port,
        }

    def around(self, connection: asyncpg.Connection) -> asyncpg.Connection:
        """The connection to use now: one that makes spans when the call that is being served is sampled."""
        if not trace.get_current_span().is_recording():
            return connection
        traced: Any = TracedConnection(connection, self)
        return traced

    async def span(self, query: str, arguments: tuple[object, ...], statement: Awaitable[R]) -> R:
        """One statement; its span has the statement's text, whose parameters are places, and never their values."""
        summary = summary_of(query)
        attributes: dict[str, str | int] = {**self._where, "db.query.text": query, "db.query.summary": summary}
        rows = max((len(argument) for argument in arguments if isinstance(argument, (list, tuple))), default=0)
        if rows > 1:
            attributes["db.operation.batch.size"] = rows
        with self._tracer.start_as_current_span(
            summary, kind=SpanKind.CLIENT, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                return await statement
            except BaseException as error:
                if isinstance(error, asyncpg.PostgresError):
                    span.set_attribute("db.response.status_code", error.sqlstate)
                    span.set_attribute("error.type", error.sqlstate)
                else:
                    span.set_attribute("error.type", type(error).__qualname__)
                # No message: PostgreSQL names values in it.
                span.set_status(Status(StatusCode.ERROR))
                raise


class TracedConnection:
    """A connection of asyncpg whose statements have spans."""

    def __init__(self, connection: asyncpg.Connection, spans: StatementSpans) -> None:
        self._connection = connection
        self._spans = spans

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def execute(self, query: str, *arguments: object) -> Any:
        """As asyncpg's."""
        return await self._spans.span(query, arguments, self._connection.execute(query, *arguments))

    async def executemany(self, command: str, args: list[Any]) -> Any:
        """As asyncpg's."""
        return await self._spans.span(command, (args,), self._connection.executemany(command, args))

    async def fetch(self, query: str, *arguments: object) -> Any:
        """As asyncpg's."""
        return await self._spans.span(query, arguments, self._connection.fetch(query, *arguments))

    async def fetchrow(self, query: str, *arguments: object) -> Any:
        """As asyncpg's."""
        return await self._spans.span(query, arguments, self._connection.fetchrow(query, *arguments))

    async def fetchval(self, query: str, *arguments: object, column: int = 0) -> Any:
        """As asyncpg's."""
        return await self._spans.span(query, arguments, self._connection.fetchval(query, *arguments, column=column))


@lru_cache(maxsize=1000)
def summary_of(query: str) -> str:
    """What a statement does to which tables, such as "INSERT tasks"; its first word where it names none."""
    own = set(_NAMED_HERE.findall(query))
    named = (tuple(filter(None, match.groups())) for match in _OPERATION.finditer(query))
    found = dict.fromkeys(f"{operation} {table}" for operation, table in named if table not in own)
    words = query.split(None, 1)
    # Conventions allow 255 characters.
    return " ".join(found)[:255] if found else words[0].strip(";").upper() if words else ""
