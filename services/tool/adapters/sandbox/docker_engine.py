"""Sandboxes of a Docker engine: one container a run, removed after it, with gVisor's runtime when the engine has it.

The engine is spoken to through the `docker` SDK in threads. A container carries the time after which it cannot be in use any
more, so that a sweep finds what a killed process left behind and never touches a run of another process.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import struct
import tarfile
import time
from pathlib import Path
from typing import Any

import docker
import requests
import structlog
from docker.errors import APIError, DockerException, ImageNotFound
from docker.models.containers import Container
from docker.types import LogConfig, Ulimit

from services.common.ids import new_id
from services.common.resources import resource
from services.tool.adapters.sandbox.answer import Remains
from services.tool.adapters.sandbox.engine import PROCESS_LIMIT, PYTHON_OPTIONS, RUNNER, SCRATCH_BYTES
from services.tool.domain.errors import SandboxLost, SandboxUnavailable
from services.tool.domain.model import MEMORY_LIMIT

IMAGE = "guildmesh-sandbox:latest"
LABEL = "dev.guildmesh.sandbox.expires"
"""Unix time in seconds after which the container is a leftover."""
OWNER = "dev.guildmesh.sandbox.owner"
"""Which engine object started the container, for those who look at the machine."""
LIFE_SECONDS = 1800.0
"""How long a container may wait for its program and run it; far above the longest wait and the longest run together."""
_NANO_CPUS = 500_000_000
_NOBODY = "65534:65534"
_DEFAULT_HOST = "unix:///var/run/docker.sock"
_CONNECT_SECONDS = 10
_STOP_SECONDS = 10.0
_SEND_SECONDS = 30.0
_FRAME = struct.Struct(">BxxxL")
_FAILURES = (DockerException, requests.RequestException, OSError)
_log = structlog.get_logger(__name__)


class DockerEngine:
    """Starts sandboxes as containers (requirement row 4)."""

    name = "docker"

    def __init__(self, docker_host: str | None = None, image: str = IMAGE) -> None:
        """Connects to the engine and makes sure of the image, building it if need be.

        Raises:
            SandboxUnavailable: no engine answers, or the image is neither there nor can be built.
        """
        self._image = image
        self.owner = new_id()
        host = docker_host or os.environ.get("DOCKER_HOST", _DEFAULT_HOST)
        if host.startswith("unix://") and not Path(host.removeprefix("unix://")).exists():
            # The library would leave the socket of its failed connection open, for the garbage collector to find at some time.
            raise SandboxUnavailable from FileNotFoundError(f"there is no {host}")
        try:
            self._client = (
                docker.DockerClient(base_url=docker_host, timeout=_CONNECT_SECONDS)
                if docker_host
                else (docker.from_env(timeout=_CONNECT_SECONDS))
            )
        except _FAILURES as error:
            raise SandboxUnavailable from error
        try:
            self._runtime = "runsc" if "runsc" in (self._client.info().get("Runtimes") or {}) else None
            self._ensure_image()
        except _FAILURES as error:
            self._client.close()
            raise SandboxUnavailable from error

    def limits(self, time_limit: float) -> dict[str, int]:
        """None: the container holds them."""
        return {}

    def start(self) -> StartedContainer:
        """Creates a container, attaches to it and starts it."""
        container: Container | None = None
        try:
            container = self._client.containers.create(
                self._image,
                ["python3", *PYTHON_OPTIONS, "-c", RUNNER],
                stdin_open=True,
                network_mode="none",
                mem_limit=MEMORY_LIMIT,
                memswap_limit=MEMORY_LIMIT,
                nano_cpus=_NANO_CPUS,
                pids_limit=PROCESS_LIMIT,
                read_only=True,
                tmpfs={"/tmp": f"rw,noexec,nosuid,nodev,size={SCRATCH_BYTES},mode=1777"},  # noqa: S108  the container's own
                shm_size=SCRATCH_BYTES // 4,
                user=_NOBODY,
                working_dir="/tmp",  # noqa: S108
                hostname="sandbox",
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                ulimits=[
                    Ulimit(name="core", soft=0, hard=0),
                    Ulimit(name="nofile", soft=256, hard=256),
                    Ulimit(name="fsize", soft=SCRATCH_BYTES, hard=SCRATCH_BYTES),
                ],
                # What a program prints must not fill the engine's disk.
                log_config=LogConfig(type="none"),
                labels={LABEL: str(int(time.time() + LIFE_SECONDS)), OWNER: self.owner},
                runtime=self._runtime,
            )
            attached = _Attached(container)
            container.start()
        except _FAILURES as error:
            if container is not None:
                _remove(container)
            raise SandboxUnavailable from error
        return StartedContainer(container, attached)

    def sweep(self) -> None:
        """Removes containers whose time is over."""
        try:
            for container in self._client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
                if time.time() > _expiry(container):
                    _log.warning("sandbox_leftover_removed", container=container.short_id)
                    _remove(container)
        except _FAILURES as error:
            _log.warning("sandbox_sweep_failed", error=str(error))

    def close(self) -> None:
        """Closes the connections to the engine."""
        self._client.close()

    def _ensure_image(self) -> None:
        try:
            self._client.images.get(self._image)
        except ImageNotFound:
            _log.info("sandbox_image_build", image=self._image)
            build_image(self._client, self._image)


class StartedContainer:
    """A container whose runner waits for its program."""

    def __init__(self, container: Container, attached: _Attached) -> None:
        self._container = container
        self._attached = attached

    def run(self, payload: bytes, time_limit: float) -> Remains:
        """See Started."""
        remains = Remains()
        try:
            self._attached.send(payload, _SEND_SECONDS)
            self._attached.receive(time_limit, remains)
            self._end(time_limit, remains)
        except _FAILURES as error:
            raise (SandboxLost(str(error)) if remains.began else SandboxUnavailable()) from error
        return remains

    def stop(self) -> None:
        """See Started."""
        with contextlib.suppress(*_FAILURES):
            self._container.kill()

    def discard(self) -> None:
        """See Started."""
        try:
            self._attached.close()
        finally:
            _remove(self._container)

    def _end(self, time_limit: float, remains: Remains) -> None:
        if not remains.timed_out:
            try:
                # The streams are closed, so the program has ended or closed them itself.
                self._container.wait(timeout=max(0.1, remains.deadline(time_limit) - time.monotonic()))
            except (requests.ReadTimeout, requests.ConnectionError):
                if time.monotonic() < remains.deadline(time_limit):
                    raise
                remains.timed_out = True
        remains.end = time.monotonic()
        if remains.timed_out:
            with contextlib.suppress(APIError):
                self._container.kill()
            # What was printed before the end is still on its way.
            self._attached.drain(_STOP_SECONDS, remains)
            return
        self._container.reload()
        state: dict[str, Any] = self._container.attrs["State"]
        remains.exit_code = int(state["ExitCode"])
        # The kernel may also have taken a child of a program that then ended in its own way.
        remains.out_of_memory = bool(state.get("OOMKilled")) and remains.exit_code == 137


class _Attached:
    """The attached streams of a container, demultiplexed (Docker Engine API, ContainerAttach)."""

    def __init__(self, container: Container) -> None:
        self._stream: Any = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        # A SocketIO has no timeouts; the socket below it has.
        below: Any = self._stream
        self._socket: socket.socket = getattr(below, "_sock", below)
        self._buffer = b""

    def send(self, data: bytes, timeout: float) -> None:
        """Writes all of `data` within `timeout` seconds."""
        self._socket.settimeout(timeout)
        self._socket.sendall(data)

    def receive(self, time_limit: float, remains: Remains) -> None:
        """Reads both streams to their end, or until the program's time is over; then timed_out is set."""
        while (left := remains.deadline(time_limit) - time.monotonic()) > 0:
            if self._receive(left, remains):
                return
        remains.timed_out = True

    def drain(self, seconds: float, remains: Remains) -> None:
        """Reads what is left for at most so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._receive(left, remains):
            pass

    def _receive(self, timeout: float, remains: Remains) -> bool:
        # True at the end of the stream.
        self._socket.settimeout(timeout)
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            return False
        self._split(data, remains)
        return not data

    def _split(self, data: bytes, remains: Remains) -> None:
        self._buffer += data
        while len(self._buffer) >= _FRAME.size:
            stream, size = _FRAME.unpack_from(self._buffer)
            if len(self._buffer) < _FRAME.size + size:
                return
            frame = self._buffer[_FRAME.size : _FRAME.size + size]
            self._buffer = self._buffer[_FRAME.size + size :]
            (remains.control if stream == 2 else remains.output).add(frame)

    def close(self) -> None:
        """Closes the streams; the container does not mind."""
        response = getattr(self._stream, "_response", None)
        for part in (response, self._stream, self._socket):
            if part is not None:
                # Each closes the one below; a second close may say that it is closed.
                with contextlib.suppress(OSError, ValueError):
                    part.close()


def build_image(client: docker.DockerClient, image: str) -> None:
    """Builds the sandbox image from deploy/docker/sandbox/Dockerfile; raises what the SDK raises."""
    dockerfile = resource("deploy/docker/sandbox/Dockerfile").read_bytes()
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(dockerfile)
        archive.addfile(entry, io.BytesIO(dockerfile))
    context.seek(0)
    client.images.build(fileobj=context, custom_context=True, tag=image, rm=True, forcerm=True, timeout=180)


def _expiry(container: Container) -> float:
    try:
        return float(container.labels[LABEL])
    except (KeyError, ValueError):
        return 0.0


def _remove(container: Container) -> None:
    try:
        container.remove(force=True, v=True)
    except _FAILURES as error:
        # 404: gone already; 409: another sweep is removing it.
        if not (isinstance(error, APIError) and error.status_code in (404, 409)):
            _log.warning("sandbox_not_removed", container=container.short_id, error=str(error))
