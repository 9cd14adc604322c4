"""Where the mesh is and who we are: from the environment, else from the mesh that runs in this folder."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc

from guildmesh_client.cli.errors import CommandError

_LOCAL = "guildmesh.connection"
# A context and a result of 1 MiB each, with what surrounds them.
_MAX_MESSAGE = 16 * 1024 * 1024


@dataclass(frozen=True)
class Connection:
    """An open channel and what goes with each call."""

    channel: grpc.Channel
    metadata: tuple[tuple[str, str], ...]


@contextmanager
def connect() -> Iterator[Connection]:
    """Opens the connection.

    `GUILDMESH_GRPC` (host:port) or `GUILDMESH_URL` says where, `GUILDMESH_TOKEN` who. Without the token, a mesh that was
    started in this folder by `guildmesh up` is asked for one of its developer. `GUILDMESH_CA` is a file with the
    certificate of the authority of a gateway that speaks TLS, for one that is not publicly known.

    Raises:
        CommandError: nothing says where, or who.
    """
    target, secure = _target()
    token = os.environ.get("GUILDMESH_TOKEN", "")
    if not target or not token:
        local_target, local_token = _local()
        target, token = target or local_target, token or local_token
    options = [("grpc.max_receive_message_length", _MAX_MESSAGE), ("grpc.max_send_message_length", _MAX_MESSAGE)]
    if secure:
        authority = os.environ.get("GUILDMESH_CA")
        roots = Path(authority).read_bytes() if authority else None
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(root_certificates=roots), options)
    else:
        channel = grpc.insecure_channel(target, options)
    with channel:
        yield Connection(channel, (("authorization", f"Bearer {token}"),))


def _target() -> tuple[str, bool]:
    url = urlsplit(os.environ.get("GUILDMESH_URL", ""))
    secure = url.scheme == "https"
    target = os.environ.get("GUILDMESH_GRPC", "")
    if not target and url.hostname:
        target = f"{url.hostname}:{url.port or (443 if secure else 80)}"
    return target, secure


def _local() -> tuple[str, str]:
    for entry in importlib.metadata.entry_points(group=_LOCAL):
        try:
            target, token = entry.load()()
        except Exception as error:
            # The server distribution has errors of its own, each one line that says what to do.
            raise CommandError(str(error)) from error
        return target, token
    raise CommandError("Set GUILDMESH_URL (such as http://127.0.0.1:8000) and GUILDMESH_TOKEN (from POST /auth/token).")
