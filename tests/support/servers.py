"""The real PostgreSQL, Redis and Kafka for tests: the embedded parts, on free ports, in a folder that goes away."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.embedded.parts.kafka import Kafka
from services.embedded.parts.postgres import Postgres
from services.embedded.parts.redis import Redis
from services.embedded.ports import free_port, free_ports
from services.embedded.running import RunningPart


@contextmanager
def server_folder(name: str) -> Iterator[Path]:
    """A folder for one server, short enough for everything that builds paths on it, that other accounts may enter."""
    folder = Path(tempfile.mkdtemp(prefix=f"guildmesh-{name}-"))
    if os.geteuid() == 0:
        folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def postgres_part(folder: Path, **changes: int) -> Postgres:
    """A PostgreSQL server on a free port; not started."""
    return Postgres(
        folder / "postgres",
        port=changes.get("port") or free_port(),
        password=secrets.token_urlsafe(12),
        superuser_password=secrets.token_urlsafe(12),
        max_connections=changes.get("max_connections") or 300,
    )


@contextmanager
def running_postgres() -> Iterator[RunningPart]:
    """A PostgreSQL server with the role and database `guildmesh` and the extension `vector`."""
    with server_folder("postgres") as folder, _running(RunningPart(postgres_part(folder), folder / "log")) as running:
        yield running


@contextmanager
def running_redis(*, cache: bool = False) -> Iterator[RunningPart]:
    """A Redis server; `cache` as in production: LRU, nothing on disk."""
    with server_folder("redis") as folder:
        part = Redis(folder / "redis", port=free_port(), password=secrets.token_urlsafe(12), cache=cache)
        with _running(RunningPart(part, folder / "log")) as running:
            yield running


@contextmanager
def running_kafka() -> Iterator[RunningPart]:
    """One Kafka node."""
    with server_folder("kafka") as folder:
        port, controller_port = free_ports(2)
        part = Kafka(folder / "kafka", port=port, controller_port=controller_port)
        with _running(RunningPart(part, folder / "log")) as running:
            yield running


@contextmanager
def _running(running: RunningPart) -> Iterator[RunningPart]:
    """Serves for the block. Nobody reads its data afterwards, so it need not end in order, which takes long with much in it."""
    running.start()
    try:
        yield running
    finally:
        if running.runs and isinstance(running.part, Postgres):
            # It ends at once, too, but lets go of its shared memory.
            running.send(signal.SIGQUIT)
            running.stop()
        running.kill()
