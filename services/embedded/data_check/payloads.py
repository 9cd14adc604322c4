"""Payloads: who uses which, and whether their bodies are in the object store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import psycopg2.extensions
from guildmesh.scheduler.v1.task_pb2 import Task
from obstore.exceptions import BaseError

from services.common.errors import DependencyUnavailable
from services.common.ids import is_id
from services.common.settings import ServiceSettings
from services.common.storage.object_store import ObjectStore, open_object_store
from services.embedded.data_check.finding import DataFinding
from services.embedded.data_check.reading import SWEPT_SECONDS, count_rows, read_rows, stream_rows
from services.embedded.errors import MeshError
from services.scheduler.domain.payload import PREFIX, PayloadState, PayloadUse, key_parts, object_key
from services.scheduler.server.payload_convert import payload_id_in

T = TypeVar("T")

LOOKED_AT = 10_000
"""payloads, the newest ones, and objects that are looked at in the store."""
_AT_ONCE = 16

_GOING = """
SELECT payload_id::text, state FROM payloads p WHERE state <> 2 AND (
  EXISTS (SELECT FROM task_payloads u WHERE u.payload_id = p.payload_id AND u.tenant_id = p.tenant_id)
  OR EXISTS (SELECT FROM schedules s WHERE s.context_payload = p.payload_id AND s.tenant_id = p.tenant_id))
"""
_LATE = f"SELECT count(*) FROM payloads WHERE check_time < clock_timestamp() - interval '{SWEPT_SECONDS} seconds'"  # noqa: S608
# A spec names a context by field 36, of 36 characters: what only looks so is told apart by reading it. A result that is a payload
# begins with a tag of its own.
_UNUSED_CONTEXTS = r"""
SELECT t.task_id::text, t.spec FROM {table} t
WHERE t.context IS NULL AND position('\xa20224'::bytea IN t.spec) > 0 AND NOT EXISTS (
  SELECT FROM task_payloads u WHERE u.task_id = t.task_id AND u.tenant_id = t.tenant_id AND u.use = {use})
"""
_UNUSED_RESULTS = r"""
SELECT t.task_id::text, t.result FROM finished_tasks t
WHERE substring(t.result FROM 1 FOR 2) = '\xa206'::bytea AND NOT EXISTS (
  SELECT FROM task_payloads u WHERE u.task_id = t.task_id AND u.tenant_id = t.tenant_id AND u.use = {use})
"""
_READY = f"SELECT payload_id::text, tenant_id, size_bytes FROM payloads WHERE state = {PayloadState.READY:d}"  # noqa: S608
_THESE = f"{_READY} AND payload_id = ANY(%s::uuid[])"
_KNOWN = "SELECT payload_id::text, tenant_id FROM payloads WHERE payload_id = ANY(%s::uuid[])"


def object_store_of(state_dir: Path) -> ObjectStore:
    """The object store that the environment names, as for the scheduler; by default a folder of the state folder.

    Raises:
        MeshError: it cannot be opened.
    """
    try:
        settings = ServiceSettings(state_dir=state_dir)
        return open_object_store(
            settings.object_store,
            settings.object_store_endpoint,
            settings.object_store_region,
            settings.object_store_keys,
            create=False,
        )
    except (ValueError, BaseError) as error:
        raise MeshError(f"The object store cannot be opened; see OBJECT_STORE_URL: {str(error).splitlines()[0]}") from error


def check_payloads(connection: psycopg2.extensions.connection) -> DataFinding:
    """A payload that is used stays, and whoever names one is known to use it."""
    finding = DataFinding("payloads", count_rows(connection, "payloads"))
    for payload_id, state in read_rows(connection, _GOING):
        finding.bad(f"{payload_id}: is used, and its state is {PayloadState(state).name}")
    for table in ("tasks", "finished_tasks"):
        for task_id, spec in stream_rows(connection, _UNUSED_CONTEXTS.format(table=table, use=int(PayloadUse.CONTEXT))):
            if named := Task.FromString(bytes(spec)).context_payload:
                finding.bad(f"{task_id}: its context is the payload {named}, which does not know of it, and may go")
    for task_id, result in stream_rows(connection, _UNUSED_RESULTS.format(use=int(PayloadUse.RESULT))):
        finding.bad(f"{task_id}: its result is the payload {payload_id_in(bytes(result))}, which does not know of it, and may go")
    [(late,)] = read_rows(connection, _LATE)
    if late:
        finding.note = f"{late} are over {SWEPT_SECONDS} s late to be looked at; start a scheduler if that lasts"
    return finding


def check_objects(connection: psycopg2.extensions.connection, store: ObjectStore) -> DataFinding:
    """Each payload that is READY has its body, and each body its payload; of very many only some are looked at.

    The connection is in no transaction: what is away in the store is looked up once more in a snapshot of its own, so that what
    came or went meanwhile is no finding.
    """
    finding = DataFinding("payload bodies")
    try:
        _check_bodies(connection, store, finding)
        _check_strays(connection, store, finding)
    except DependencyUnavailable:
        finding.bad("the object store does not answer, or does not let us in; see OBJECT_STORE_URL and its keys")
    return finding


def _check_bodies(connection: psycopg2.extensions.connection, store: ObjectStore, finding: DataFinding) -> None:
    rows = _read(connection, f"{_READY} ORDER BY payload_id DESC LIMIT %s", LOOKED_AT)
    finding.rows = len(rows)
    if len(rows) == LOOKED_AT:
        finding.note = f"only the newest {LOOKED_AT:,} were looked at"
    wrong = {payload_id for (payload_id, _, size), found in zip(rows, _sizes(store, rows), strict=True) if found != size}
    if not wrong:
        return
    still = _read(connection, _THESE, sorted(wrong))
    for (payload_id, tenant_id, size), found in zip(still, _sizes(store, still), strict=True):
        what = f"is not in {store.url}" if found is None else f"has {found} bytes in {store.url}, not {size}"
        if found != size:
            finding.bad(
                f"{payload_id}: the body of this payload of {tenant_id} {what}; restore {object_key(tenant_id, payload_id)}"
            )


def _check_strays(connection: psycopg2.extensions.connection, store: ObjectStore, finding: DataFinding) -> None:
    """Bodies of which no row tells, so that no sweep will find them, such as after a restore of the tables."""
    before = datetime.now(UTC) - timedelta(seconds=SWEPT_SECONDS)

    async def old() -> tuple[list[str], bool]:
        keys: list[str] = []
        more = False
        async for key, _, changed in store.list(PREFIX):
            more = len(keys) == LOOKED_AT
            if more:
                break
            if changed < before:
                keys.append(key)
        return keys, more

    keys, more = asyncio.run(old())
    parts = {key: key_parts(key) for key in keys}
    ids = [found[1] for found in parts.values() if found is not None and is_id(found[1])]
    known = {(tenant_id, payload_id) for payload_id, tenant_id in _read(connection, _KNOWN, ids)} if ids else set()
    stray = [key for key, found in parts.items() if found not in known]
    for key, size in zip(stray, _many([_size_of(store, key) for key in stray]), strict=True):
        if size is not None:
            finding.bad(f"{key}: no payload is known of this object; nothing uses it, so delete it")
    if more:
        finding.note = "; ".join(part for part in (finding.note, f"only {LOOKED_AT:,} objects were looked at") if part)


def _sizes(store: ObjectStore, rows: Sequence[Any]) -> list[int | None]:
    return _many([_size_of(store, object_key(tenant_id, payload_id)) for payload_id, tenant_id, _ in rows])


def _size_of(store: ObjectStore, key: str) -> Callable[[], Awaitable[int | None]]:
    return lambda: store.size(key)


def _many(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """What the calls give, some of them made at once."""

    async def all_of_them() -> list[T]:
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(call: Callable[[], Awaitable[T]]) -> T:
            async with room:
                return await call()

        return await asyncio.gather(*map(one, calls))

    return asyncio.run(all_of_them())


def _read(connection: psycopg2.extensions.connection, statement: str, *arguments: object) -> list[Any]:
    """The rows of a statement in a snapshot of its own."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL ROLE scheduler_engine")
        cursor.execute("SET LOCAL search_path TO scheduler")
        return read_rows(connection, statement, *arguments)
