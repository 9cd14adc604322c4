"""Large bytes by key, in S3, Google Cloud Storage, Azure, a folder, or memory: whichever the URL names.

Bodies go through in pieces both ways, so that memory does not grow with their size. An object is seen when all of it is there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, from_url

from services.common.errors import DependencyUnavailable

PART_BYTES = 5 << 20
"""of a part of an upload: the least that S3 takes."""
_PIECE_BYTES = 256 << 10
_PARTS_AT_ONCE = 2
_HEALTH_KEY = "guildmesh-health-check"
_SCHEMES = ("s3", "gs", "az", "file", "memory")


class ObjectNotFound(Exception):
    """There is no object of this key."""


class ObjectStore:
    """The objects at one URL."""

    def __init__(self, store: Any, folder: Path | None = None) -> None:
        """Use `open_object_store`; `folder` is where a local one keeps its files."""
        self._store = store
        self._folder = folder

    async def put(self, key: str, pieces: AsyncIterable[bytes]) -> None:
        """Stores all pieces as one object, in the place of one that was there.

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

    async def check(self) -> None:
        """Raises DependencyUnavailable when the store does not answer."""
        try:
            await obstore.head_async(self._store, _HEALTH_KEY)
        except (NotFoundError, FileNotFoundError):
            return
        except (BaseError, OSError) as error:
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


def open_object_store(url: str, endpoint: str = "", region: str = "", allow_http: bool = True) -> ObjectStore:
    """The store at a URL: s3://BUCKET/PREFIX, gs://…, az://…, file:///FOLDER, memory:///.

    Keys are read from the usual variables, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; `endpoint` and `region` are S3's.

    Raises:
        ValueError: the URL names no store.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"{url!r} names no object store; it begins with one of {', '.join(f'{each}://' for each in _SCHEMES)}")
    if parts.scheme == "file":
        folder = Path(unquote(parts.path))
        return ObjectStore(LocalStore(folder, automatic_cleanup=False, mkdir=True), folder)
    options: Any = {}
    if parts.scheme == "s3":
        if endpoint:
            options["endpoint"] = endpoint
        options["region"] = region or "us-east-1"
    client: Any = {"allow_http": allow_http, "connect_timeout": "5s", "timeout": "60s"}
    # A store that is away is told of soon: the caller tries again.
    retries: Any = {"max_retries": 3}
    if parts.scheme == "memory":
        return ObjectStore(from_url(url))
    return ObjectStore(from_url(url, config=options, client_options=client, retry_config=retries))
