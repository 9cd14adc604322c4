"""A whole mesh for acceptance tests, driven as a user drives it: by the command `guildmesh`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.embedded.mesh import look
from services.embedded.ports import free_ports
from services.embedded.state import StateFolder

# Settings of the machine that would change what is tested.
_FOREIGN = (
    *("DATABASE_URL", "REDIS_URL", "REDIS_CACHE_URL", "KAFKA_BOOTSTRAP_SERVERS", "OPENAI_BASE_URL", "OPENAI_API_KEY"),
    *("ANTHROPIC_API_KEY", "JWT_SECRET_KEY", "DEFAULT_LLM_PROVIDER", "API_WORKERS"),
)
# A token lives half an hour.
_TOKEN_SECONDS = 300.0
_TOLD_LINES = 20
UP_SECONDS = 240.0
"""A first start may download Kafka."""


@dataclass
class RunningMesh:
    """A mesh in a state folder of its own, on free ports."""

    state_dir: Path
    extra: dict[str, str] = field(default_factory=dict)
    """Further variables of its environment."""

    def __post_init__(self) -> None:
        api, kafka, metrics = free_ports(3)
        self.url = f"http://127.0.0.1:{api}"
        self.grpc_target = f"127.0.0.1:{api}"
        self.kafka_bootstrap_servers = f"127.0.0.1:{kafka}"
        self.metrics_url = f"http://127.0.0.1:{metrics}/metrics"
        self.api_port = api
        self._developer = "", -_TOKEN_SECONDS
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in _FOREIGN and not name.startswith("GUILDMESH_")},
            "API_PORT": str(api),
            "KAFKA_PORT": str(kafka),
            "METRICS_PORT": str(metrics),
            "GUILDMESH_STATE_DIR": str(self.state_dir),
            **self.extra,
        }

    def command(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Runs `guildmesh ARGUMENTS`, in a folder without a `.env`."""
        return subprocess.run(
            [guildmesh(), *arguments],
            env=self.environment,
            cwd=self.state_dir.parent,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ok(self, *arguments: str, timeout: float = 60.0) -> str:
        """Runs `guildmesh ARGUMENTS`, which must succeed; gives its standard output."""
        done = self.command(*arguments, timeout=timeout)
        assert done.returncode == 0, f"guildmesh {' '.join(arguments)}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self) -> str:
        """Starts it and returns when all is healthy."""
        try:
            return self.ok("up", "--detach", timeout=UP_SECONDS)
        except AssertionError as error:
            error.add_note(self.told())
            raise

    def down(self) -> str:
        """Stops it."""
        return self.ok("down", timeout=120)

    def rows(self) -> dict[str, dict[str, Any]]:
        """What `guildmesh status` knows about each part, by its name; read without the second that a command takes to start."""
        return {row.name: row.as_dict() for row in look(StateFolder(self.state_dir)).rows}

    def told(self) -> str:
        """The last lines of each part's log, without those on calls."""
        parts = []
        for path in sorted(StateFolder(self.state_dir).logs.glob("*.log")):
            lines = [line for line in path.read_text(errors="replace").splitlines() if '"logger": "access"' not in line]
            parts += [path.name, *lines[-_TOLD_LINES:]]
        return "\n".join(parts)

    def pid(self, part: str) -> int:
        """The process of a part."""
        pid = self.rows()[part]["pid"]
        assert isinstance(pid, int), f"{part} has no process"
        return pid

    def kill(self, part: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Sends a signal to the process of a part; gives its id. A process that is killed is known to be gone afterwards."""
        pid = self.pid(part)
        os.kill(pid, number)
        if number is signal.SIGKILL:
            # Until its supervisor has noticed, it would be called healthy.
            self.wait_until(lambda rows: rows[part]["pid"] != pid)
        return pid

    def wait_until(self, condition: Callable[[Mapping[str, dict[str, Any]]], bool], seconds: float = 60.0) -> None:
        """Waits until the rows are as wanted."""
        deadline = time.monotonic() + seconds
        while not condition(rows := self.rows()):
            assert time.monotonic() < deadline, {name: (row["state"], row["why"]) for name, row in rows.items()}
            time.sleep(0.1)

    def wait_healthy(self, seconds: float = 60.0) -> None:
        """Waits until every part is healthy."""
        self.wait_until(lambda rows: all(row["state"] in ("healthy", "done") for row in rows.values()), seconds)

    def exports(self) -> dict[str, str]:
        """What `guildmesh env` exports, as a shell reads it."""
        script = f'eval "$({guildmesh()} env)" && env -0'
        shell = subprocess.run(
            ["/bin/sh", "-c", script], env=self.environment, cwd=self.state_dir.parent, capture_output=True, check=True
        )
        lines = shell.stdout.decode().split("\0")
        return dict(line.split("=", 1) for line in lines if "=" in line and line.split("=", 1)[0] not in self.environment)

    def token(self, username: str = "developer", *, tenant: str = "default", roles: tuple[str, ...] = ()) -> str:
        """A token of a user, who is made first when missing."""
        if username == "developer":
            if time.monotonic() - self._developer[1] > _TOKEN_SECONDS:
                self._developer = self.exports()["GUILDMESH_TOKEN"], time.monotonic()
            return self._developer[0]
        password = f"password of {username}"
        arguments = ["users", "create", username, "--password", password, "--tenant", tenant]
        done = self.command(*arguments, *(part for role in roles for part in ("--role", role)))
        assert done.returncode == 0 or "is taken" in done.stderr, done.stderr
        body = json.dumps({"username": username, "password": password}).encode()
        request = urllib.request.Request(f"{self.url}/auth/token", data=body, headers={"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return str(json.load(response)["access_token"])


@contextmanager
def running_mesh(folder: Path) -> Iterator[RunningMesh]:
    """A mesh that is up, in a folder.

    Leases are a third shorter than by default: many tests wait for the end of one.
    """
    running = RunningMesh(folder / "state", {"GUILDMESH_LEASE_SECONDS": "10", "GUILDMESH_HEARTBEAT_SECONDS": "3"})
    try:
        running.up()
        yield running
    finally:
        running.down()


def guildmesh() -> str:
    """The program `guildmesh` of the environment that runs the tests."""
    return str(Path(sys.executable).parent / "guildmesh")
