"""A whole mesh of a benchmark's own, by the command `guildmesh`, with the settings that everyone gets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from bench.errors import BenchFailed
from services.embedded.ports import free_ports
from services.embedded.state import StateFolder

# Settings of the machine that would change what is measured.
_FOREIGN = (
    *("DATABASE_URL", "REDIS_URL", "REDIS_CACHE_URL", "KAFKA_BOOTSTRAP_SERVERS", "OPENAI_BASE_URL", "OPENAI_API_KEY"),
    *("ANTHROPIC_API_KEY", "JWT_SECRET_KEY", "DEFAULT_LLM_PROVIDER", "API_WORKERS"),
)
# A first start may download Kafka.
_UP_SECONDS = 240
_DOWN_SECONDS = 120


class Mesh:
    """A mesh that runs, and where its doors are."""

    def __init__(self, state_dir: Path, environment: dict[str, str]) -> None:
        """Describes it; `running_mesh` starts it."""
        self._state_dir = state_dir
        self._environment = environment
        self.exports: dict[str, str] = {}

    @property
    def target(self) -> str:
        """The gateway's port for gRPC."""
        return self.exports["GUILDMESH_GRPC"]

    @property
    def token(self) -> str:
        """A token of the user that a development mesh has."""
        return self.exports["GUILDMESH_TOKEN"]

    @property
    def database_url(self) -> str:
        """The mesh's database."""
        return self.exports["DATABASE_URL"]

    @property
    def superuser_url(self) -> str:
        """The same database for the server's superuser, whom no service is."""
        url = urlsplit(self.database_url)
        secret = StateFolder(self._state_dir).secret("postgres-superuser")
        return url._replace(netloc=f"postgres:{secret}@{url.hostname}:{url.port}").geturl()

    @property
    def scheduler(self) -> str:
        """The address of its scheduler, behind the gateway."""
        ports = json.loads((self._state_dir / "ports.json").read_text())
        return f"127.0.0.1:{ports['scheduler']}"

    @property
    def agent_certificate(self) -> Path:
        """The folder of the certificate by which an agent worker is known."""
        return StateFolder(self._state_dir).tls / "agent"

    @property
    def kafka(self) -> str:
        """The bootstrap servers."""
        return self.exports["KAFKA_BOOTSTRAP_SERVERS"]

    def pids(self) -> dict[str, int]:
        """The process of each part that has one."""
        done = self.command("status", "--json", timeout=60, check=False)
        return {row["name"]: row["pid"] for row in json.loads(done)["parts"] if row["pid"]}

    def command(self, *arguments: str, timeout: float, check: bool = True) -> str:
        """Runs `guildmesh ARGUMENTS` and gives its output.

        Raises:
            BenchFailed: it failed.
        """
        program = str(Path(sys.executable).parent / "guildmesh")
        try:
            done = subprocess.run(
                [program, *arguments],
                env=self._environment,
                # A folder without a `.env`.
                cwd=self._state_dir.parent,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BenchFailed(f"guildmesh {' '.join(arguments)} did not end within {timeout:.0f} s") from None
        if check and done.returncode:
            raise BenchFailed(f"guildmesh {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def up(self) -> None:
        """Starts it and waits until all is healthy."""
        self.command("up", "--detach", timeout=_UP_SECONDS)
        script = f'eval "$({Path(sys.executable).parent / "guildmesh"} env)" && env -0'
        shell = subprocess.run(
            ["/bin/sh", "-c", script], env=self._environment, cwd=self._state_dir.parent, capture_output=True, check=True
        )
        pairs = (line.split("=", 1) for line in shell.stdout.decode().split("\0") if "=" in line)
        self.exports = {name: value for name, value in pairs if name not in self._environment}

    def down(self) -> None:
        """Stops it; what it keeps stays."""
        self.command("down", timeout=_DOWN_SECONDS)


@contextmanager
def mesh() -> Iterator[Mesh]:
    """A mesh in a folder that goes away, on free ports; not started yet, and stopped at the end."""
    folder = Path(tempfile.mkdtemp(prefix="guildmesh-bench-"))
    if os.geteuid() == 0:
        # PostgreSQL runs under another account then, and has to pass through.
        folder.chmod(0o711)
    api, kafka, metrics = free_ports(3)
    kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN and not name.startswith("GUILDMESH_")}
    own = {"API_PORT": str(api), "KAFKA_PORT": str(kafka), "METRICS_PORT": str(metrics)}
    described = Mesh(folder / "state", {**kept, **own, "GUILDMESH_STATE_DIR": str(folder / "state")})
    try:
        yield described
    finally:
        described.command("down", timeout=_DOWN_SECONDS, check=False)
        shutil.rmtree(folder, ignore_errors=True)
