"""The scratch database: the scheduler's own tables, and what the prototypes need beside them."""

from __future__ import annotations

import io
import json
import random
import uuid
from contextlib import closing
from urllib.parse import urlsplit

import psycopg2
from pydantic import SecretStr

from bench.dispatch.loads import Load
from services.common.db.migrations import migrate
from services.embedded.parts.postgres import Postgres
from services.scheduler.settings import SchedulerSettings

KIND = "bench"
_HEADS_IN_NEWS = 50
"""that fit into a notification."""
_SPEC = b"s" * 250

_TABLES = """
-- What was built of them since has other forms.
DROP TABLE scheduler.dispatch_owners, scheduler.dispatch_epochs;
DROP INDEX scheduler.tasks_pending;
CREATE INDEX tasks_pending ON scheduler.tasks (kind, queue_priority DESC, priority DESC, position) WHERE state = 1;
ALTER TABLE scheduler.tasks ADD COLUMN seconds real NOT NULL DEFAULT 0;
ALTER TABLE scheduler.finished_tasks ADD COLUMN concurrency_key text;
-- What waits of a tenant in a queue, in its order; what runs in a queue.
CREATE INDEX tasks_ready ON scheduler.tasks (queue, tenant_id, priority DESC, position) WHERE state = 1;
CREATE INDEX tasks_running ON scheduler.tasks (queue) WHERE state = 2;
-- Attempts whose lease ended: for the checker.
CREATE TABLE scheduler.dispatch_expired (LIKE scheduler.finished_tasks INCLUDING DEFAULTS);
CREATE TABLE scheduler.dispatch_queues (queue text PRIMARY KEY, max_running integer, max_per_key integer);
-- race: what a tenant has used of a queue, and whether it may have tasks waiting there.
CREATE TABLE scheduler.dispatch_usage (
  queue text, tenant_id text, weight float8 NOT NULL, used float8 NOT NULL DEFAULT 0, estimate float8 NOT NULL DEFAULT 0.1,
  active boolean NOT NULL DEFAULT true, PRIMARY KEY (queue, tenant_id)
) WITH (fillfactor = 50);
-- owner, grants: who owns a scope, and since which take-over. Renewals leave the row alone that every start locks.
CREATE TABLE scheduler.dispatch_owners (
  scope integer PRIMARY KEY, owner text, address text, lease_expires timestamptz
) WITH (fillfactor = 50);
CREATE TABLE scheduler.dispatch_epochs (scope integer PRIMARY KEY, epoch bigint NOT NULL DEFAULT 0) WITH (fillfactor = 50);
GRANT ALL ON ALL TABLES IN SCHEMA scheduler TO scheduler_engine;
GRANT ALL ON ALL SEQUENCES IN SCHEMA scheduler TO scheduler_engine
"""
_USAGE = """
INSERT INTO dispatch_usage SELECT DISTINCT t.queue, t.tenant_id, w.weight
FROM tasks t JOIN unnest(%s, %s) AS w (tenant_id, weight) USING (tenant_id)
"""
_COPY = """
COPY scheduler.tasks (tenant_id, task_id, create_time, available_at, state, shard, queue_priority, priority, max_attempts,
  timeout_ms, next_event_number, log_events, queue, kind, traceparent, spec, log, concurrency_key, seconds) FROM STDIN
"""
INSERT = f"""
INSERT INTO tasks (tenant_id, task_id, create_time, available_at, state, shard, queue_priority, priority, max_attempts,
  timeout_ms, next_event_number, log_events, queue, kind, traceparent, spec, log, seconds)
SELECT %s, gen_random_uuid(), clock_timestamp(), clock_timestamp(), 1, 0, 5, 5, 3, 300000, 2, 1, 'q0', '{KIND}', '', %s, %s, %s
FROM generate_series(1, %s) RETURNING task_id::text, tenant_id, queue, concurrency_key, priority, position
"""


def make_template(server: Postgres, load: Load) -> str:
    """Makes the database with the load's backlog from which each run gets a copy; gives its URL."""
    url = server.create_database(f"dispatch_load_{load.name.split()[0]}")
    migrate(SchedulerSettings(_env_file=None, database_url=SecretStr(url)), "services.scheduler.storage.migrations", "scheduler")
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(_TABLES)
    # COPY is not for those whose rows are checked.
    superuser = urlsplit(server.superuser_url)._replace(path=urlsplit(url).path).geturl()
    with closing(psycopg2.connect(superuser, options="-c search_path=scheduler")) as connection, connection.cursor() as cursor:
        for queue, limits in load.queues.items():
            cursor.execute("INSERT INTO dispatch_queues VALUES (%s, %s, %s)", (queue, limits.running, limits.per_key))
        _fill(cursor, load)
        if load.trickle:
            cursor.execute("INSERT INTO dispatch_usage VALUES ('q0', %s, %s)", (load.trickle, load.weights[load.trickle]))
        weights = list(load.weights), list(load.weights.values())
        cursor.execute(_USAGE, weights)
        connection.commit()
        connection.autocommit = True
        cursor.execute("VACUUM ANALYZE")
    return url


def make_database(server: Postgres, template: str, scopes: int) -> str:
    """A copy of the template, with so many scopes to own; gives its URL."""
    name = f"dispatch_{uuid.uuid4().hex[:12]}"
    with closing(psycopg2.connect(server.superuser_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            role = urlsplit(server.url).username
            cursor.execute(f"CREATE DATABASE {name} TEMPLATE {urlsplit(template).path[1:]} OWNER {role}")
    url = urlsplit(server.url)._replace(path=f"/{name}").geturl()
    with closing(engine(url)) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO dispatch_owners SELECT generate_series(0, %s)", (scopes - 1,))
        cursor.execute("INSERT INTO dispatch_epochs SELECT generate_series(0, %s)", (scopes - 1,))
    return url


def drop_database(server: Postgres, url: str) -> None:
    """Takes away the database of a run."""
    with closing(psycopg2.connect(server.superuser_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {urlsplit(url).path[1:]} WITH (FORCE)")


def engine(url: str) -> psycopg2.extensions.connection:
    """A connection of the run's own tools, in the role that sees all tenants."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine; SET search_path = scheduler, public")
    return connection


def _fill(cursor: psycopg2.extensions.cursor, load: Load) -> None:
    chance = random.Random(7)
    lines = io.StringIO()
    spec, log = (f"\\\\x{(_SPEC[:size]).hex()}" for size in (250, 150))
    for row in load.backlog(chance):
        task_id = uuid.UUID(int=chance.getrandbits(128))
        lines.write(
            f"{row.tenant}\t{task_id}\tnow\tnow\t1\t0\t5\t{row.priority}\t3\t300000\t2\t1\t{row.queue}\t{KIND}\t\t{spec}\t{log}"
            f"\t{row.key or chr(92) + 'N'}\t{row.seconds}\n"
        )
    lines.seek(0)
    cursor.copy_expert(_COPY, lines)


def add_tasks(cursor: psycopg2.extensions.cursor, tenant: str, seconds: float, number: int) -> None:
    """More tasks of a tenant in the queue q0; whoever waits for tasks is told."""
    cursor.execute("BEGIN")
    cursor.execute(INSERT, (tenant, _SPEC, _SPEC[:150], seconds, number))
    heads = cursor.fetchall()
    for place in range(0, len(heads), _HEADS_IN_NEWS):
        cursor.execute("SELECT pg_notify('dispatch', %s)", (json.dumps(heads[place : place + _HEADS_IN_NEWS]),))
    cursor.execute("UPDATE dispatch_usage SET active = true WHERE queue = 'q0' AND tenant_id = %s", (tenant,))
    cursor.execute("COMMIT")
