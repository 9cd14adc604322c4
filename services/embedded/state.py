"""The folder of a mesh (`.guildmesh/`): secrets, certificates, data, logs, and the record of what runs."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.embedded.errors import MeshError
from services.embedded.ports import free_port, is_taken

_RECORD = "mesh.json"
_SECRETS = "secrets.json"
_PORTS = "ports.json"
_ADDRESSES = "addresses.json"


class StateFolder:
    """The folder that holds everything a mesh keeps between two starts."""

    def __init__(self, path: Path) -> None:
        """Describes the folder; nothing is made yet."""
        self.path = path.absolute()

    @property
    def logs(self) -> Path:
        """One log a part."""
        return self.path / "logs"

    @property
    def tls(self) -> Path:
        """One folder a certificate."""
        return self.path / "tls"

    @property
    def held(self) -> Path:
        """A file with the name of a part stops it for as long as it lies here."""
        return self.path / "held"

    def create(self) -> None:
        """Makes the folder, private to its owner.

        Raises:
            MeshError: it cannot be written.
        """
        # PostgreSQL runs under another account when we are root, and has to pass through; what is private in here is
        # private by its own mode.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.path.chmod(mode)
            for folder in (self.logs, self.tls, self.held):
                folder.mkdir(mode=0o700, exist_ok=True)
            ignore = self.path / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n")
            # Even root cannot write to a read-only file system; access(2) does not always tell.
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise MeshError(
                f"Cannot write to {self.path} ({error.strerror}): choose another folder with GUILDMESH_STATE_DIR."
            ) from error

    def secret(self, name: str) -> str:
        """A random secret that stays the same for the life of the folder."""
        known = self._read(_SECRETS)
        if name not in known:
            known[name] = secrets.token_urlsafe(24)
            self._write(_SECRETS, known)
        return str(known[name])

    def key(self, name: str) -> str:
        """32 random bytes in base64 that stay the same for the life of the folder."""
        known = self._read(_SECRETS)
        if name not in known:
            known[name] = base64.b64encode(secrets.token_bytes(32)).decode()
            self._write(_SECRETS, known)
        return str(known[name])

    def developer_password(self) -> Path:
        """The file with the password of the user `developer`; made with a random one when it is missing."""
        file = self.path / "developer-password"
        if not file.exists():
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as password:
                password.write(secrets.token_urlsafe(18) + "\n")
        return file

    def port(self, name: str) -> int:
        """A free port for a part, the same as last time if it is still free."""
        known = self._read(_PORTS)
        port = known.get(name)
        if not isinstance(port, int) or is_taken(port):
            port = free_port()
            while port in known.values():
                port = free_port()
            known[name] = port
            self._write(_PORTS, known)
        return port

    def embed(self, variable: str, address: str) -> None:
        """Remembers the address of an embedded part under the variable that `guildmesh env` exports it by."""
        known = self._read(_ADDRESSES)
        if known.get(variable) != address:
            self._write(_ADDRESSES, known | {variable: address})

    def external(self, variable: str, address: str | None) -> str | None:
        """The address if it is somebody else's; None for that of an embedded part, which a shell has from `guildmesh env`."""
        return None if address is None or address == self._read(_ADDRESSES).get(variable) else address

    def record(self) -> dict[str, Any]:
        """What the supervisor wrote about the mesh that runs or ran; empty if none ever did."""
        return self._read(_RECORD)

    def write_record(self, record: dict[str, Any]) -> None:
        """Replaces the record, at once or not at all."""
        self._write(_RECORD, record)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.path / name).read_text())
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            return {}
        except PermissionError as error:
            raise MeshError(
                f"Cannot read {self.path / name}: the mesh belongs to another account; "
                "use that one, or another folder with GUILDMESH_STATE_DIR."
            ) from error
        return content if isinstance(content, dict) else {}

    def _write(self, name: str, content: dict[str, Any]) -> None:
        handle, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{name}-")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(content, file, indent=1)
            os.replace(temporary, self.path / name)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Holds the folder's lock; gives False at once when another supervisor holds it.

        The kernel lets go of it when its holder dies, however it dies.
        """
        with (self.path / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def is_locked(self) -> bool:
        """Whether a supervisor lives."""
        try:
            with (self.path / "lock").open("r") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
        except OSError:
            return False
        return False
