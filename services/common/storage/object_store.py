"""Large bytes by key, in S3, Google Cloud Storage, Azure, a folder, or memory: whichever the URL names.

Bodies go through in pieces both ways, so that memory does not grow with their size. An object is seen when all of it is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, from_url

from services.common.errors import DependencyUnavailable, ObjectNotFound

PART_BYTES = 5 << 20
"""of a part of an upload: the least that S3 takes."""
_PIECE_BYTES = 256 << 10
_PARTS_AT_ONCE = 2
_HEALTH_KEY = "guildmesh-health-check"
_SCHEMES = ("s3", "gs", "az", "file", "memory")


class ObjectStore:
    """The objects at one URL."""

    def __init__(self, store: Any, url: str, folder: Path | None = None) -> None:
        """Use `open_object_store`; `folder` is where a local one keeps its files."""
        self.url = url
        self._store = store
        self._folder = folder

    async def put(self, key: str, pieces: AsyncIterable[bytes]) -> None:
        """Stores all pieces as one object, in the place of one that was there; it outlives a power cut from then on.

        What `pieces` raises is raised, and nothing is stored.

        Raises:
            DependencyUnavailable: the store does not answer.
        """
        reading = _Reading(pieces)
        try:
            await obstore.put_async(
                self._store, key, reading, use_multipart=True, chunk_size=PART_BYTES, max_concurrency=_PARTS_AT_ONCE
            )
        except BaseException as error:
            if reading.error is not None:
                raise reading.error from None
            if isinstance(error, BaseError | OSError):
                raise DependencyUnavailable("object store") from error
            raise
        if self._folder is not None:
            await self._on_disk(self._folder / key)

    async def get(self, key: str, offset: int = 0) -> AsyncGenerator[bytes]:
        """The pieces of an object, from a byte on.

        Raises:
            ObjectNotFound: there is none.
            DependencyUnavailable: the store does not answer.
        """
        try:
            options: Any = {"range": {"offset": offset}} if offset else {}
            found = await obstore.get_async(self._store, key, options=options)
            async for piece in found.stream(min_chunk_size=_PIECE_BYTES):
                whole = bytes(piece)
                # A store in memory gives an object in one piece.
                for start in range(0, len(whole), _PIECE_BYTES):
                    yield whole[start : start + _PIECE_BYTES]
        except (NotFoundError, FileNotFoundError) as error:
            raise ObjectNotFound(key) from error
        except (BaseError, OSError) as error:
            raise DependencyUnavailable("object store") from error

    async def delete(self, key: str) -> None:
        """Deletes an object, and what an upload of it that was cut off has left; one that is not there is deleted already.

        Raises:
            DependencyUnavailable: the store does not answer.
        """
        if self._folder is not None:
            # An upload into a folder is written beside its object, as KEY#NUMBER.
            path = self._folder / key
            for rest in path.parent.glob(f"{path.name}#*"):
                rest.unlink(missing_ok=True)
        try:
            await obstore.delete_async(self._store, key)
        except (NotFoundError, FileNotFoundError):
            return
        except (BaseError, OSError) as error:
            raise DependencyUnavailable("object store") from error
        if self._folder is not None:
            await self._on_disk((self._folder / key).parent)

    async def size(self, key: str) -> int | None:
        """Bytes of an object, or None when there is none.

        Raises:
            DependencyUnavailable: the store does not answer.
        """
        try:
            return int((await obstore.head_async(self._store, key))["size"])
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise DependencyUnavailable("object store") from error

    async def list(self, prefix: str) -> AsyncGenerator[tuple[str, int, datetime]]:
        """Key, bytes and time of the last change of every object below a prefix, in the store's order.

        Raises:
            DependencyUnavailable: the store does not answer.
        """
        try:
            async for found in obstore.list(self._store, prefix):
                for each in found:
                    yield each["path"], int(each["size"]), each["last_modified"]
        except (BaseError, OSError) as error:
            raise DependencyUnavailable("object store") from error

    async def check(self) -> None:
        """Raises DependencyUnavailable when the store does not answer."""
        await self.size(_HEALTH_KEY)
        if self._folder is not None and not await asyncio.to_thread(os.access, self._folder, os.R_OK | os.W_OK | os.X_OK):
            raise DependencyUnavailable("object store")

    async def _on_disk(self, path: Path) -> None:
        """Returns when a file or folder, and the folders that it lies in, are on the disk and not only in memory."""
        try:
            await asyncio.to_thread(_sync, path, self._folder)
        except OSError as error:
            raise DependencyUnavailable("object store") from error


class _Reading:
    """Pieces as they are read, and what ended them before their end: the store tells of it in words of its own."""

    def __init__(self, pieces: AsyncIterable[bytes]) -> None:
        self._pieces = aiter(pieces)
        self.error: BaseException | None = None

    def __aiter__(self) -> _Reading:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._pieces)
        except StopAsyncIteration:
            raise
        except BaseException as error:
            self.error = error
            raise


def _sync(path: Path, root: Path | None) -> None:
    for each in (path, *path.parents):
        # What another deletion has taken away meanwhile is nobody's.
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(each, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        if each == root:
            return


def open_object_store(
    url: str, endpoint: str = "", region: str = "", keys: Mapping[str, str] | None = None, *, create: bool = True
) -> ObjectStore:
    """The store at a URL: s3://BUCKET/PREFIX, gs://…, az://…, file:///FOLDER, memory:///.

    Args:
        url: names it.
        endpoint: of S3, when it is not Amazon's; only one that begins with http:// is spoken to without TLS.
        region: of S3.
        keys: as obstore names them for the sort of store, such as access_key_id; what is not given is read from the usual
            variables of the process's environment.
        create: whether a folder that is not there is made; else it is as an empty one.

    Raises:
        ValueError: the URL names no store.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"{url!r} names no object store; it begins with one of {', '.join(f'{each}://' for each in _SCHEMES)}")
    if parts.scheme == "file":
        folder = Path(unquote(parts.path))
        if not create and not folder.exists():
            return ObjectStore(from_url("memory:///"), url)
        return ObjectStore(LocalStore(folder, automatic_cleanup=False, mkdir=create), url, folder)
    options: Any = dict(keys or {})
    client: Any = {"connect_timeout": "5s", "timeout": "60s"}
    if parts.scheme == "s3":
        if endpoint:
            options["endpoint"] = endpoint
            if endpoint.lower().startswith("http://"):
                client["allow_http"] = True
        options["region"] = region or "us-east-1"
    # A store that is away is told of soon: the caller tries again.
    retries: Any = {"max_retries": 3}
    if parts.scheme == "memory":
        return ObjectStore(from_url(url), url)
    return ObjectStore(from_url(url, config=options, client_options=client, retry_config=retries), url)
