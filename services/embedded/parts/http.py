"""A small HTTP question for checks, over TCP or a Unix socket."""

from __future__ import annotations

import http.client
import json
import os
import socket
from pathlib import Path

from services.embedded.errors import NotReady

_TIMEOUT = 5.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        # A socket's path may have 107 bytes at most, a state folder's has no limit: go through the open folder.
        folder = os.open(self._path.parent, os.O_PATH)
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(_TIMEOUT)
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)


def require_ok(where: tuple[str, int] | Path, path: str) -> None:
    """Returns when GET `path` answers 200; raises NotReady with what it says otherwise."""
    connection = (
        _UnixConnection(where) if isinstance(where, Path) else http.client.HTTPConnection(where[0], where[1], timeout=_TIMEOUT)
    )
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(65536)
    except (OSError, http.client.HTTPException) as error:
        raise NotReady(f"no answer: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise NotReady(_reason(response.status, body))


def _reason(status: int, body: bytes) -> str:
    try:
        answer = json.loads(body)
        down = answer["down"]
        return "; ".join(f"{name}: {why}" for name, why in down.items())
    except (ValueError, KeyError, TypeError, AttributeError):
        text = " ".join(body.decode(errors="replace").split())
        return f"HTTP {status} {text[:200]}".strip()
