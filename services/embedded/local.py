"""The mesh of this folder, for commands that need someone to talk to."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from services.embedded import mesh
from services.embedded.errors import MeshError
from services.embedded.migrate import DEVELOPER
from services.embedded.settings import load_settings
from services.embedded.state import StateFolder


def running_mesh(state: StateFolder) -> mesh.Snapshot:
    """The mesh that runs in this folder; raises MeshError when none does."""
    snapshot = mesh.look(state)
    if not state.is_locked() or not snapshot.exports:
        raise MeshError(f"No mesh runs from {state.path}: start one with `guildmesh up --detach`.")
    return snapshot


def local_token(state: StateFolder) -> str:
    """A fresh token of the user `developer`, whom only the development profile has."""
    password = state.path / "developer-password"
    try:
        secret = password.read_text().strip()
    except OSError as error:
        raise MeshError(
            f"Cannot read {password} ({error.strerror}): the production profile has no developer; "
            "get a token with POST /auth/token and set GUILDMESH_TOKEN."
        ) from error
    return request_token(running_mesh(state).url, DEVELOPER, secret)


def request_token(url: str, username: str, password: str) -> str:
    """A bearer token by POST /auth/token."""
    request = urllib.request.Request(  # noqa: S310 - http only, the address is our own
        f"{url}/auth/token",
        data=json.dumps({"username": username, "password": password}).encode(),
        headers={"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=15) as response:  # noqa: S310 - as above
            return str(json.load(response)["access_token"])
    except urllib.error.HTTPError as error:
        body = error.read().decode(errors="replace")[:300]
        raise MeshError(
            f"The mesh at {url} gave no token to {username!r} ({error.code}: {body}); see `guildmesh status`."
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise MeshError(f"The mesh at {url} does not answer ({error}); see `guildmesh status`.") from error


def connection() -> tuple[str, str]:
    """(gRPC target, token) of the mesh of this folder; for the client's commands when the environment names none.

    Raises:
        MeshError: none runs, or it has no developer.
    """
    state = StateFolder(load_settings().state_dir)
    return running_mesh(state).exports["GUILDMESH_GRPC"], local_token(state)
