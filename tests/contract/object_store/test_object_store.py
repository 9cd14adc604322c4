"""What every object store does, run over each: a folder, memory, and S3 by a server of its own."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import boto3  # type: ignore[import-untyped]
import pytest
from moto.server import ThreadedMotoServer

from services.common.errors import DependencyUnavailable
from services.common.storage.object_store import PART_BYTES, ObjectNotFound, ObjectStore, open_object_store
from services.embedded.ports import free_port

SECRETS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing"
    )
    client.create_bucket(Bucket="payloads")
    client.close()
    yield endpoint
    server.stop()


@pytest.fixture(params=["file", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    if request.param == "file":
        return open_object_store(tmp_path.as_uri())
    if request.param == "memory":
        return open_object_store("memory:///")
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return open_object_store(f"s3://payloads/{uuid.uuid4()}", request.getfixturevalue("s3"))


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
        await asyncio.sleep(0)


async def read(store: ObjectStore, key: str, offset: int = 0) -> bytes:
    return b"".join([piece async for piece in store.get(key, offset)])


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, 2 * PART_BYTES + 7])
async def test_gives_back_what_was_put(store: ObjectStore, size: int) -> None:
    body = os.urandom(size)
    await store.put("acme/one", pieces(*(body[start : start + 300_000] for start in range(0, size, 300_000))))
    assert await read(store, "acme/one") == body
    if size > 1:
        assert await read(store, "acme/one", size - 1) == body[-1:]


async def test_a_second_put_takes_the_place_of_the_first(store: ObjectStore) -> None:
    await store.put("acme/one", pieces(b"first"))
    await store.put("acme/one", pieces(b"second"))
    assert await read(store, "acme/one") == b"second"


async def test_what_is_not_there_is_not_found_and_deleted_in_peace(store: ObjectStore) -> None:
    with pytest.raises(ObjectNotFound):
        await read(store, "acme/none")
    await store.delete("acme/none")


async def test_what_is_deleted_is_gone(store: ObjectStore) -> None:
    await store.put("acme/one", pieces(b"body"))
    await store.delete("acme/one")
    with pytest.raises(ObjectNotFound):
        await read(store, "acme/one")


async def test_an_upload_that_breaks_off_leaves_no_object_and_raises_its_own_error(store: ObjectStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * (PART_BYTES + 1)
        raise LookupError("the caller went away")

    with pytest.raises(LookupError, match="the caller went away"):
        await store.put("acme/one", broken())
    with pytest.raises(ObjectNotFound):
        await read(store, "acme/one")


async def test_a_store_that_answers_is_well(store: ObjectStore) -> None:
    await store.check()


async def test_a_store_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    store = open_object_store("s3://payloads", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(DependencyUnavailable, match="object store"):
        await store.check()


def test_a_url_of_no_store_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"begins with one of s3://"):
        open_object_store("ftp://somewhere")
