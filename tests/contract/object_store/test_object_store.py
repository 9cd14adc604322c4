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

from services.common.errors import DependencyUnavailable, ObjectNotFound
from services.common.storage.object_store import PART_BYTES, ObjectStore, open_object_store
from services.embedded.ports import free_port

SECRETS = {"access_key_id": "testing", "secret_access_key": "testing"}


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
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "file":
        return open_object_store(tmp_path.as_uri())
    if request.param == "memory":
        return open_object_store("memory:///")
    return open_object_store(f"s3://payloads/{uuid.uuid4()}", request.getfixturevalue("s3"), keys=SECRETS)


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


async def test_it_tells_what_it_has_and_how_large_it_is(store: ObjectStore) -> None:
    assert [found async for found in store.list("acme")] == []
    for key, body in (("acme/one", b"12345"), ("acme/two", b""), ("other/one", b"1")):
        await store.put(key, pieces(body))
    found = {key: (size, changed.tzinfo is not None) async for key, size, changed in store.list("acme")}
    assert found == {"acme/one": (5, True), "acme/two": (0, True)}
    assert [await store.size(key) for key in ("acme/one", "acme/two", "acme/three")] == [5, 0, None]


async def test_keys_reach_the_store_by_the_environment_too(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(f"AWS_{name.upper()}", value)
    store = open_object_store(f"s3://payloads/{uuid.uuid4()}", s3)
    await store.put("acme/one", pieces(b"body"))
    assert await read(store, "acme/one") == b"body"


async def test_a_store_that_does_not_answer_is_unavailable() -> None:
    store = open_object_store("s3://payloads", f"http://127.0.0.1:{free_port()}", keys=SECRETS)
    with pytest.raises(DependencyUnavailable, match="object store"):
        await store.check()


async def test_a_file_and_its_folders_are_on_the_disk_when_it_is_said_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    store = open_object_store((tmp_path / "a folder").as_uri())
    await store.put("acme/sub/one", pieces(b"body"))
    folder = tmp_path / "a folder"
    assert synced == [folder / "acme/sub/one", folder / "acme/sub", folder / "acme", folder]
    synced.clear()
    await store.delete("acme/sub/one")
    assert synced[0] == folder / "acme/sub"


async def test_a_folder_that_is_gone_is_not_well_and_one_to_look_at_is_not_made(tmp_path: Path) -> None:
    store = open_object_store((tmp_path / "objects").as_uri())
    await store.check()
    (tmp_path / "objects").rmdir()
    with pytest.raises(DependencyUnavailable, match="object store"):
        await store.check()
    looking = open_object_store((tmp_path / "objects").as_uri(), create=False)
    assert [await looking.size("acme/one"), [each async for each in looking.list("acme")]] == [None, []]
    assert not (tmp_path / "objects").exists()


async def test_without_tls_is_spoken_only_where_the_endpoint_says_so() -> None:
    """An endpoint without TLS that is not called so is not spoken to: no key is sent in the open by mistake."""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(16))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = open_object_store("s3://payloads", f"https://127.0.0.1:{port}", keys=SECRETS)
    with pytest.raises(DependencyUnavailable):
        await store.check()
    server.close()
    await server.wait_closed()
    assert asked
    # The first byte of a TLS handshake.
    assert all(each[:1] == b"\x16" for each in asked)


def test_a_url_of_no_store_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"begins with one of s3://"):
        open_object_store("ftp://somewhere")
