"""TCP ports: which are free, and who holds one that is not."""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

import psutil

from services.embedded.errors import MeshError

LOOPBACK = "127.0.0.1"
_CHANCE = random.SystemRandom()
_TRIES = 1000
_FIRST = 10_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port(host: str = LOOPBACK) -> int:
    """Gives a TCP port that nobody listens on now."""
    return free_ports(1, host)[0]


def free_ports(count: int, host: str = LOOPBACK) -> list[int]:
    """Gives `count` different TCP ports that nobody listens on now.

    Below those that the system gives to connections: one of these could be taken by a connection before its server listens.
    """
    below = _first_ephemeral()
    found: set[int] = set()
    for _ in range(_TRIES):
        if len(found) == count:
            return list(found)
        port = _CHANCE.randrange(_FIRST, below)
        if not is_taken(port, host):
            found.add(port)
    raise MeshError(f"No {count} TCP ports between {_FIRST} and {below} are free: choose them by hand.")


def _first_ephemeral() -> int:
    """The first port that the system gives to connections by itself; that of Linux's default where it does not say."""
    try:
        first = int(_EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32_768
    return first if first > 2 * _FIRST else 32_768


def is_taken(port: int, host: str = LOOPBACK) -> bool:
    """Whether another process listens on the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Connections that were closed a moment ago do not count: servers set this option too.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise MeshError(f"Cannot listen on {host}:{port}: {error.strerror}; choose another port.") from error
    return False


def owner(port: int) -> str | None:
    """Names the process that listens on the port as `name (pid N)`, or None if it cannot be seen."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.AccessDenied, OSError):
        return None
    for connection in connections:
        local = tuple(connection.laddr)
        if connection.status == psutil.CONN_LISTEN and local[1:] == (port,) and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.Error:
                return f"pid {connection.pid}"
    return None


def require_free(port: int, variable: str, host: str = LOOPBACK) -> None:
    """Raises MeshError, naming the holder and the variable that changes the port, when the port is taken."""
    if is_taken(port, host):
        holder = owner(port) or "another process"
        raise MeshError(f"Port {port} is taken by {holder}: stop it, or choose another port with {variable}={port + 1}.")
