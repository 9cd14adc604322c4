"""What docs/how-to/large-payloads.md says to who writes a worker without our library."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from guildmesh.scheduler.v1 import payload_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb

from services.scheduler.bootstrap import open_service
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, value
from tests.integration.scheduler.test_payloads import Uploads
from tests.support.service import metadata, running

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "large-payloads.md"


@pytest.fixture
async def uploads(scheduler_settings: MakeSettings, scheduler_tls: Path, tmp_path: Path) -> AsyncIterator[Uploads]:
    async with running(open_service, scheduler_settings(object_store_url=tmp_path.as_uri()), scheduler_tls) as server:
        yield Uploads(Scheduler(server), tmp_path)


async def test_a_worker_without_our_library_reads_and_gives_values_of_any_size(uploads: Uploads) -> None:
    [code] = [block for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL) if "def read_context" in block]
    guide: dict[str, Any] = {}
    exec(compile(code, str(GUIDE), "exec"), guide)
    scheduler = uploads.scheduler
    stub, mine = pb_grpc.PayloadServiceStub(scheduler.channel), metadata(scheduler.ada)
    large = "x" * (3 << 20)
    given = await uploads.up(b'{"text": "' + large.encode() + b'"}')
    async with scheduler.worker() as worker:
        for fields, text, times in (
            ({"context_payload": given.payload_id}, large, 2),
            ({"context": value({"text": "small"}).struct_value}, "small", 1),
        ):
            task = await scheduler.create(**fields)
            lease = await worker.lease()
            context = await guide["read_context"](stub, lease.task, mine)
            assert context == {"text": text}
            await worker.send(completions=[await guide["completion"](stub, lease.task, context["text"] * times, mine)])
            await worker.answer("acks")
            ended = await scheduler.get(task.task_id)
            if times == 1:
                assert ended.result == value(text)
            else:
                assert len((await uploads.down(ended.result_payload))[1]) == 2 * len(large) + 2


async def test_a_large_result_in_the_message_ends_the_stream_as_the_guide_says(uploads: Uploads) -> None:
    task = await uploads.scheduler.create()
    async with uploads.scheduler.worker() as worker:
        await worker.lease()
        done = worker_pb.TaskCompletion(task_id=task.task_id, attempt=1, result=value("x" * (2 << 20)))
        await worker.send(completions=[done])
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await worker.answer("acks")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
