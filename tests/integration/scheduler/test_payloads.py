"""Payloads: up and down in pieces, whose they are, and what becomes of those that nothing uses."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import pytest
from google.api.httpbody_pb2 import HttpBody
from guildmesh.scheduler.v1 import payload_pb2
from guildmesh.scheduler.v1 import payload_service_pb2 as pb
from guildmesh.scheduler.v1 import payload_service_pb2_grpc as pb_grpc

from services.common.context import Principal
from services.scheduler.bootstrap import open_service
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
from tests.support.service import metadata, running

MIB = 1 << 20


@dataclass
class Uploads:
    """A scheduler whose payloads are swept often, and where it keeps them."""

    scheduler: Scheduler
    folder: Path

    def __post_init__(self) -> None:
        self.stub: pb_grpc.PayloadServiceAsyncStub = pb_grpc.PayloadServiceStub(self.scheduler.channel)

    async def up(self, body: bytes, content_type: str = "application/json", by: Principal | None = None) -> payload_pb2.Payload:
        async def pieces() -> AsyncIterator[HttpBody]:
            for start in range(0, max(1, len(body)), MIB):
                yield HttpBody(content_type=content_type, data=body[start : start + MIB])

        return await self.stub.UploadPayload(pieces(), metadata=metadata(by or self.scheduler.ada))

    async def down(self, payload_id: str, offset: int = 0, by: Principal | None = None) -> tuple[str, bytes]:
        request = pb.DownloadPayloadRequest(payload_id=payload_id, offset=offset)
        pieces = [each async for each in self.stub.DownloadPayload(request, metadata=metadata(by or self.scheduler.ada))]
        return pieces[0].content_type, b"".join(piece.data for piece in pieces)

    async def get(self, payload_id: str, by: Principal | None = None) -> payload_pb2.Payload:
        request = pb.GetPayloadRequest(payload_id=payload_id)
        return await self.stub.GetPayload(request, metadata=metadata(by or self.scheduler.ada))

    async def delete(self, payload_id: str, by: Principal | None = None) -> None:
        request = pb.DeletePayloadRequest(payload_id=payload_id)
        await self.stub.DeletePayload(request, metadata=metadata(by or self.scheduler.ada))

    def files(self) -> list[Path]:
        """The objects of ada's tenant, those that are not whole as well."""
        tenant = self.folder / "payloads" / self.scheduler.ada.tenant_id.encode().hex()
        return sorted(path for path in tenant.rglob("*") if path.is_file()) if tenant.exists() else []

    async def until_no_files(self) -> None:
        await until(lambda: not self.files())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - a folder tells nobody
            await asyncio.sleep(0.02)


@pytest.fixture
async def uploads(scheduler_settings: MakeSettings, scheduler_tls: Path, tmp_path: Path) -> AsyncIterator[Uploads]:
    settings = scheduler_settings(
        object_store_url=tmp_path.as_uri(),
        payload_max_bytes=8 * MIB,
        payload_sweep_seconds=0.1,
        payload_check_seconds=0.2,
        payload_unused_seconds=60,
    )
    async with running(open_service, settings, scheduler_tls) as server:
        yield Uploads(Scheduler(server), tmp_path)


async def refused(call: object, code: grpc.StatusCode, word: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    assert caught.value.code() is code, caught.value
    assert word in (caught.value.details() or "")


@pytest.mark.parametrize("size", [0, 1, 7 * MIB + 3])
async def test_gives_back_what_was_uploaded(uploads: Uploads, size: int) -> None:
    body = os.urandom(size)
    payload = await uploads.up(body, "text/plain; charset=utf-8")
    assert (payload.size_bytes, payload.sha256) == (size, hashlib.sha256(body).hexdigest())
    assert await uploads.down(payload.payload_id) == ("text/plain; charset=utf-8", body)
    assert (await uploads.down(payload.payload_id, offset=size // 2))[1] == body[size // 2 :]
    assert (await uploads.down(payload.payload_id, offset=size + 5))[1] == b""
    assert await uploads.get(payload.payload_id.upper()) == payload


async def test_more_than_the_limit_is_refused_and_leaves_nothing(uploads: Uploads) -> None:
    await refused(uploads.up(b"x" * (8 * MIB + 1)), grpc.StatusCode.INVALID_ARGUMENT, "more than 8388608 bytes")
    assert uploads.files() == []


async def test_an_upload_that_breaks_off_leaves_nothing(uploads: Uploads) -> None:
    begun = asyncio.Event()

    async def pieces() -> AsyncIterator[HttpBody]:
        for _ in range(6):
            yield HttpBody(data=b"x" * MIB)
        begun.set()
        await asyncio.Event().wait()

    call = uploads.stub.UploadPayload(pieces(), metadata=metadata(uploads.scheduler.ada))
    uploading = asyncio.ensure_future(call)
    await begun.wait()
    await until(lambda: bool(uploads.files()))
    uploading.cancel()
    await asyncio.gather(uploading, return_exceptions=True)
    await uploads.until_no_files()


async def test_another_tenant_finds_nothing(uploads: Uploads) -> None:
    payload = await uploads.up(b"{}")
    bob = Principal("bob", unique("globex"), frozenset({"user"}))
    await refused(uploads.get(payload.payload_id, by=bob), grpc.StatusCode.NOT_FOUND, "No payload")
    await refused(uploads.down(payload.payload_id, by=bob), grpc.StatusCode.NOT_FOUND, "No payload")
    await refused(uploads.delete(payload.payload_id, by=bob), grpc.StatusCode.NOT_FOUND, "No payload")
    assert (await uploads.down(payload.payload_id))[1] == b"{}"


async def test_what_is_deleted_is_gone(uploads: Uploads) -> None:
    payload = await uploads.up(b"{}")
    await uploads.delete(payload.payload_id)
    assert uploads.files() == []
    await refused(uploads.get(payload.payload_id), grpc.StatusCode.NOT_FOUND, "No payload")
    await refused(uploads.delete(payload.payload_id), grpc.StatusCode.NOT_FOUND, "No payload")


async def test_what_nobody_uses_goes_when_it_expires(
    scheduler_settings: MakeSettings, scheduler_tls: Path, tmp_path: Path
) -> None:
    settings = scheduler_settings(object_store_url=tmp_path.as_uri(), payload_sweep_seconds=0.1, payload_unused_seconds=0.3)
    async with running(open_service, settings, scheduler_tls) as server:
        uploads = Uploads(Scheduler(server), tmp_path)
        payload = await uploads.up(b"{}")
        await uploads.until_no_files()
        await refused(uploads.get(payload.payload_id), grpc.StatusCode.NOT_FOUND, "No payload")


async def test_memory_does_not_grow_with_a_body(scheduler_settings: MakeSettings, scheduler_tls: Path, tmp_path: Path) -> None:
    piece = os.urandom(MIB)
    settings = scheduler_settings(object_store_url=tmp_path.as_uri())
    process, most = psutil.Process(), 0
    async with running(open_service, settings, scheduler_tls) as server:
        uploads = Uploads(Scheduler(server), tmp_path)
        before = process.memory_info().rss

        async def pieces() -> AsyncIterator[HttpBody]:
            nonlocal most
            for _ in range(200):
                most = max(most, process.memory_info().rss)
                yield HttpBody(data=piece)

        payload = await uploads.stub.UploadPayload(pieces(), metadata=metadata(uploads.scheduler.ada))
        assert payload.size_bytes == 200 * MIB
        request = pb.DownloadPayloadRequest(payload_id=payload.payload_id)
        received = 0
        async for message in uploads.stub.DownloadPayload(request, metadata=metadata(uploads.scheduler.ada)):
            received += len(message.data)
            most = max(most, process.memory_info().rss)
        assert received == 200 * MIB
    # Client and server are both this process.
    assert most - before < 100 * MIB
