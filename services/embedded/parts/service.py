"""A process of one of our services, and the one that brings the schemas of all of them up to date."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from services.embedded.parts.http import require_ok
from services.embedded.parts.part import Launch, Part
from services.embedded.ports import LOOPBACK

MIGRATE = "migrate"


class ServiceProcess(Part):
    """`python -m MODULE`, healthy when its admin port says that it is ready."""

    def __init__(
        self,
        name: str,
        module: str,
        *,
        admin_port: int,
        environment: Mapping[str, str],
        uses: Iterable[str],
        drain_seconds: float,
        port: int | None = None,
        nice: int = 0,
    ) -> None:
        """Describes the process.

        Args:
            name: of the part.
            module: that Python runs.
            admin_port: where it answers /health, /ready and /metrics.
            environment: all of its environment.
            uses: parts that it calls; it starts without them, and stops before them.
            drain_seconds: how long it gives running calls when it stops.
            port: of gRPC, or None if it serves none.
            nice: see Launch.
        """
        self.name = name
        # It waits for everything else by itself, but without its tables it would fail.
        self.needs = (MIGRATE,)
        self.uses = tuple(uses)
        self.stop_seconds = drain_seconds + 5.0
        self._module = module
        self._admin_port = admin_port
        self._port = port
        self._nice = nice
        self._environment = dict(environment)

    def address(self) -> str:
        """Where it listens."""
        return f"{LOOPBACK}:{self._port or self._admin_port}"

    def launch(self) -> Launch:
        """The process in the foreground."""
        # -P: a file in the working directory must not take the place of a module of ours.
        return Launch((sys.executable, "-P", "-m", self._module), environment=self._environment, nice=self._nice)

    def check(self) -> None:
        """Asks its admin port whether it is ready."""
        require_ok((LOOPBACK, self._admin_port), "/ready")


class Migrations(Part):
    """Brings every service's schema to its newest revision, then ends."""

    name = MIGRATE
    one_shot = True
    start_seconds = 120.0

    def __init__(
        self,
        services: Sequence[str],
        environment: Mapping[str, str],
        needs: Sequence[str],
        developer_password: Path | None = None,
    ) -> None:
        """Describes the process.

        Args:
            services: names of those that have tables.
            environment: all of its environment.
            needs: parts that must be healthy before it starts.
            developer_password: file with the password of the user `developer`, or None to make no such user.
        """
        self.needs = tuple(needs)
        self._services = tuple(services)
        self._environment = dict(environment)
        self._developer = ("--developer", str(developer_password)) if developer_password else ()

    def launch(self) -> Launch:
        """One process for all services."""
        arguments = (*self._services, *self._developer)
        return Launch((sys.executable, "-P", "-m", "services.embedded.migrate", *arguments), environment=self._environment)
