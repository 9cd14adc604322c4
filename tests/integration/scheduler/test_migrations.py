"""Migrations carry what is there along, in both directions."""

from __future__ import annotations

import importlib.resources
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from alembic import command
from alembic.config import Config
from guildmesh.scheduler.v1 import task_pb2
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import InternalError
from sqlalchemy.pool import NullPool

from services.common import db

SCHEMA = "scheduler"
_OLD = "tenant_id, task_id::text, create_time, finish_time, state, attempt, queue, kind, spec, log, result, error_reason"
_INSERT = """
INSERT INTO scheduler.finished_tasks (tenant_id, task_id, create_time, start_time, finish_time, state, attempt, next_event_number,
  log_events, progress, queue, kind, traceparent, error_reason, spec, context, log, result)
VALUES (%s, uuidv7(%s::interval), now() + %s::interval, NULL, now(), %s, 1, 4, 3, 1, 'code', 'k', 't', %s, %s, NULL,
  'log', 'result')
"""


def move(url: str, revision: str, *, down: bool = False) -> None:
    """Brings the schema to a revision."""
    configuration = Config()
    configuration.set_main_option("script_location", str(Path(db.__file__).parent / "alembic"))
    configuration.set_main_option("path_separator", "newline")
    versions = importlib.resources.files("services.scheduler.storage.migrations") / "versions"
    configuration.set_main_option("version_locations", str(versions))
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg2"), poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        connection.commit()
        configuration.attributes.update(connection=connection, schema=SCHEMA)
        (command.downgrade if down else command.upgrade)(configuration, revision)
        connection.commit()


def rows(url: str, statement: str) -> list[Any]:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
        cursor.execute(statement)
        return [tuple(bytes(value) if isinstance(value, memoryview) else value for value in row) for row in cursor.fetchall()]


def spec(priority: int, description: str) -> bytes:
    return task_pb2.Task(
        task_id="x" * 36, tenant_id="acme", queue="code", kind="k", description=description, priority=priority
    ).SerializeToString()


def test_ended_tasks_go_to_partitions_of_their_time_and_back(empty_database_url: str) -> None:
    url = empty_database_url
    move(url, "0001")
    priorities = {f"-{days} days": days % 10 + 1 for days in (0, 1, 6, 31, 200)}
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
        for age, priority in priorities.items():
            # As long as a length of one byte, of two, and of three.
            what = "long " * (1, 100, 6000)[priority % 3]
            for tenant in ("acme", "globex"):
                cursor.execute(
                    _INSERT, (tenant, age, age, 3 + priority % 3, "WHY" if priority % 3 else None, spec(priority, what))
                )
    before = rows(url, f"SELECT {_OLD} FROM scheduler.finished_tasks ORDER BY task_id")
    assert len(before) == 10
    for _ in range(2):
        move(url, "0002")
        assert rows(url, f"SELECT {_OLD} FROM scheduler.finished_tasks ORDER BY task_id") == before
        told = rows(url, "SELECT DISTINCT priority, retention_days FROM scheduler.finished_tasks ORDER BY 1")
        assert told == [(priority, 30) for priority in sorted(set(priorities.values()))]
        # Each in the partition of its time, none where nothing else fits.
        assert rows(url, "SELECT count(*) FROM scheduler.finished_tasks_30_rest") == [(0,)]
        assert len(rows(url, "SELECT DISTINCT tableoid FROM scheduler.finished_tasks")) >= 4
        ahead = "SELECT count(*) FROM scheduler.task_partitions WHERE retention_days = 30 AND lower_time > now()"
        assert rows(url, ahead) == [(2,)]
        move(url, "0001", down=True)
        assert rows(url, f"SELECT {_OLD} FROM scheduler.finished_tasks ORDER BY task_id") == before


def test_no_role_of_a_tenant_sees_another_through_a_partition(empty_database_url: str) -> None:
    move(empty_database_url, "head")
    with closing(psycopg2.connect(empty_database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relname LIKE 'finished_tasks%' AND relkind IN ('r', 'p')")
        names = [name for (name,) in cursor.fetchall()]
        assert len(names) > 10
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relname = ANY(%s) AND NOT (relrowsecurity AND relforcerowsecurity)"
            " AND relkind = 'r'",
            (names,),
        )
        assert cursor.fetchall() == []
        cursor.execute(
            "SELECT p.polname FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid, unnest(p.polroles) role"
            " WHERE c.relname = ANY(%s) AND role = 'scheduler_api'::regrole"
            " AND pg_get_expr(p.polqual, p.polrelid) NOT LIKE '%%guildmesh.tenant%%'",
            (names,),
        )
        assert cursor.fetchall() == []


def test_schedules_come_and_go_without_touching_the_tasks(empty_database_url: str) -> None:
    url = empty_database_url
    move(url, "0004")
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
        cursor.execute(_INSERT, ("acme", "0 days", "0 days", 3, None, spec(5, "what is there")))
    before = rows(url, f"SELECT {_OLD} FROM scheduler.finished_tasks")
    for _ in range(2):
        move(url, "0005")
        assert rows(url, f"SELECT {_OLD} FROM scheduler.finished_tasks") == before
        assert rows(url, "SELECT count(*) FROM scheduler.schedules") == [(0,)]
        forced = "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE oid = 'scheduler.schedules'::regclass"
        assert rows(url, forced) == [(True,)]
        move(url, "0004", down=True)
        assert rows(url, "SELECT to_regclass('scheduler.schedules')") == [(None,)]
    assert rows(url, f"SELECT {_OLD} FROM scheduler.finished_tasks") == before


def test_dispatch_comes_and_goes_with_the_tasks_there(empty_database_url: str) -> None:
    url = empty_database_url
    move(url, "0008")
    insert = """
    INSERT INTO scheduler.tasks (tenant_id, task_id, create_time, available_at, state, shard, queue_priority, priority,
      max_attempts, timeout_ms, next_event_number, log_events, queue, kind, traceparent, spec, log, queue_tenant, concurrency_key)
    VALUES ('acme', uuidv7(), now(), now(), 1, 0, 5, 5, 3, 1000, 2, 1, 'code', 'k', '', '', '', '*', 'x')
    """
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
        cursor.execute(insert)
        cursor.execute("INSERT INTO scheduler.decided_queues VALUES ('*', 'code')")
    move(url, "0006", down=True)
    assert rows(url, "SELECT count(*) FROM scheduler.tasks WHERE state = 1") == [(1,)]
    move(url, "0008")
    # Whoever is first takes it, as any task that nobody has decided on.
    assert rows(url, "SELECT queue_tenant FROM scheduler.tasks") == [(None,)]
    assert rows(url, "SELECT epoch FROM scheduler.dispatch_epochs") == [(0,)]


def test_what_has_failed_becomes_a_dead_letter_and_the_queues_stay(empty_database_url: str) -> None:
    url = empty_database_url
    move(url, "0005")
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
        for state, reason in ((3, None), (4, "TIMEOUT"), (4, None), (5, None)):
            cursor.execute(_INSERT, ("acme", "0 days", "0 days", state, reason, spec(5, "what is there")))
        cursor.execute("INSERT INTO scheduler.queues (tenant_id, queue, priority) VALUES ('acme', 'own', 7)")
    before = rows(url, f"SELECT {_OLD} FROM scheduler.finished_tasks ORDER BY task_id")
    queues = rows(url, "SELECT tenant_id, queue, priority FROM scheduler.queues ORDER BY 1, 2")
    for _ in range(2):
        move(url, "0006")
        told = "SELECT reason, tenant_id, queue, kind, attempts, retention_days FROM scheduler.dead_letters ORDER BY 1"
        assert rows(url, told) == [("TIMEOUT", "acme", "code", "k", 1, 30), ("UNKNOWN", "acme", "code", "k", 1, 30)]
        forced = """
            SELECT bool_and(relrowsecurity AND relforcerowsecurity) FROM pg_class
            WHERE oid IN ('scheduler.dead_letters'::regclass, 'scheduler.finished_tasks'::regclass, 'scheduler.queues'::regclass)
        """
        assert rows(url, forced) == [(True,)]
        move(url, "0005", down=True)
        assert rows(url, f"SELECT {_OLD} FROM scheduler.finished_tasks ORDER BY task_id") == before
        assert rows(url, "SELECT tenant_id, queue, priority FROM scheduler.queues ORDER BY 1, 2") == queues


def test_a_webhook_has_a_place_in_each_lane_before_and_after_there_are_topics_of_tenants(empty_database_url: str) -> None:
    url = empty_database_url
    move(url, "0019")
    webhook = """
INSERT INTO scheduler.webhooks
  (create_time, update_time, uid, tenant_id, webhook_id, url, filter, description, created_by, secret)
VALUES (now(), now(), gen_random_uuid(), 'acme', 'hook', 'https://example.com', '', '', 'ada', 'x');
INSERT INTO scheduler.webhook_backlogs (tenant_id, uid, lane, start_time, positions)
SELECT tenant_id, uid, 0, now(), '{1,2,3,4}' FROM scheduler.webhooks;
UPDATE scheduler.webhook_lanes SET positions = '{5,6,7,8}' WHERE lane < 2 RETURNING lane
"""
    assert rows(url, webhook) == [(0,), (1,)]
    backlogs = "SELECT lane, positions{} FROM scheduler.webhook_backlogs ORDER BY lane"
    move(url, "0020")
    # A topic without a name is that of all tenants, which was the only one.
    assert rows(url, backlogs.format(", topic")) == [(0, [1, 2, 3, 4], "")]
    assert rows(url, "SELECT positions, topic FROM scheduler.webhook_lanes WHERE lane = 1") == [([5, 6, 7, 8], "")]
    elsewhere = """
INSERT INTO scheduler.webhook_places (lane, tenant_id, topic, positions) VALUES (2, 'acme', 'mesh.acme.events', '{9,9,9,9}');
INSERT INTO scheduler.webhook_backlogs (tenant_id, uid, lane, start_time, positions, topic)
SELECT tenant_id, uid, 3, now(), '{9,9,9,9}', 'mesh.acme.events' FROM scheduler.webhooks RETURNING lane
"""
    assert rows(url, elsewhere) == [(3,)]
    move(url, "0019", down=True)
    # It is with the lane 1; in the others it begins at a time.
    assert rows(url, backlogs.format("")) == [(0, [1, 2, 3, 4]), (2, None), (3, None)]
    move(url, "0020")


def test_sealed_secrets_of_webhooks_are_not_left_to_a_version_that_would_sign_with_them(empty_database_url: str) -> None:
    url = empty_database_url
    move(url, "0021")
    plain, sealed = "UPDATE scheduler.webhooks SET master_key_id = NULL", "UPDATE scheduler.webhooks SET master_key_id = 'x'"

    def change(statement: str) -> None:
        with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("SET ROLE scheduler_engine")
            cursor.execute(statement)

    change(
        "INSERT INTO scheduler.webhooks (create_time, update_time, uid, tenant_id, webhook_id, url, filter, description,"
        " created_by, secret)"
        " VALUES (now(), now(), gen_random_uuid(), 'acme', 'hook', 'https://example.com', '', '', 'ada', 'secret')"
    )
    change(sealed)
    with pytest.raises(InternalError, match="cannot open them"):
        move(url, "0020", down=True)
    change(plain)
    kept = "SELECT webhook_id, secret FROM scheduler.webhooks"
    for revision, down in (("0020", True), ("0021", False)):
        move(url, revision, down=down)
        assert rows(url, kept) == [("hook", b"secret")]
    assert rows(url, "SELECT master_key_id FROM scheduler.webhooks") == [(None,)]
