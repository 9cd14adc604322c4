"""What `guildmesh doctor --data` finds out: whether the scheduler's tables say one thing, and a possible one.

All is read in one snapshot (repeatable read, read only), so that a mesh at work is neither disturbed nor seen half way through a
change: each check holds at any moment, and what holds only when all is quiet is told as a note. The logs are streamed; what has
to be known of all tasks at once is asked of PostgreSQL.
"""

from __future__ import annotations

from contextlib import closing

import psycopg2
import psycopg2.extensions

from services.common.storage.object_store import ObjectStore
from services.embedded.data_check.dead_letters import check_dead_letters
from services.embedded.data_check.dependencies import check_dependencies
from services.embedded.data_check.finding import DataFinding
from services.embedded.data_check.logs import check_logs, check_overflow
from services.embedded.data_check.outbox import check_lanes, check_outbox
from services.embedded.data_check.payloads import check_objects, check_payloads, object_store_of
from services.embedded.data_check.schedules import check_schedules
from services.embedded.data_check.tasks import (
    check_appended,
    check_children,
    check_leases,
    check_places,
    check_requests,
    check_steps,
)
from services.embedded.data_check.webhooks import check_webhooks
from services.embedded.errors import MeshError

__all__ = ["DataFinding", "check_data", "check_tables", "object_store_of"]


def check_data(url: str, store: ObjectStore | None = None) -> list[DataFinding]:
    """Checks all tables of the scheduler in the database of `url`, and the bodies of payloads in a store when there is one.

    Raises:
        MeshError: the database does not answer, or has no such tables.
    """
    try:
        connection = psycopg2.connect(url, connect_timeout=5, application_name="doctor")
    except psycopg2.Error as error:
        raise MeshError(f"DATABASE_URL does not answer: {_line(error)}") from error
    with closing(connection):
        try:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL ROLE scheduler_engine")
                cursor.execute("SET LOCAL search_path TO scheduler")
            found = check_tables(connection)
            if store is not None:
                # In snapshots of their own, since the store has none.
                connection.rollback()
                found.append(check_objects(connection, store))
            return found
        except psycopg2.Error as error:
            raise MeshError(f"The scheduler's tables cannot be read: {_line(error)}") from error


def check_tables(connection: psycopg2.extensions.connection) -> list[DataFinding]:
    """All checks, in the transaction of the caller, whose role sees every tenant."""
    return [
        check_places(connection),
        *check_logs(connection),
        check_leases(connection),
        check_requests(connection),
        check_steps(connection),
        check_appended(connection),
        check_children(connection),
        check_dependencies(connection),
        check_overflow(connection),
        check_outbox(connection),
        check_dead_letters(connection),
        check_schedules(connection),
        check_payloads(connection),
        check_lanes(connection),
        check_webhooks(connection),
    ]


def _line(error: psycopg2.Error) -> str:
    return str(error).strip().splitlines()[0]
