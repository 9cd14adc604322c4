"""A worker of the fault tests, with the Python library: `python -m tests.faults.worker`. It writes down what it tells and hears.

Its settings come as one JSON object in FAULTS_WORKER. What a task asks for stands in its label `do`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import uvloop
from guildmesh.scheduler.v1 import worker_service_pb2 as pb
from guildmesh_client.worker import Task, TaskFailed, Worker

from services.common.certificates import IDENTITY_SUFFIX
from services.common.context import Principal
from services.common.grpcx.channel import service_config
from tests.faults.history import FAIL, OK, Recorder, digest
from tests.support.service import metadata

KIND = "faults"
SIGNAL = "go"
SETTINGS = "FAULTS_WORKER"
AGENT = Principal("worker", "mesh", frozenset({"user"}))


class Told:
    """Writes down what goes over a Work stream; a report that is told again is the same operation."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._open: dict[tuple[str, int, str], int] = {}

    def sent(self, request: pb.WorkRequest) -> None:
        """Called with each message before it leaves."""
        for item in request.completions:
            result = digest(item.result.SerializeToString(deterministic=True))
            self._invoke("complete", item.task_id, item.attempt, "", result=result)
        for step in request.steps:
            self._invoke("step", step.task_id, step.attempt, step.step_id, step_id=step.step_id)
        for wait in request.waits:
            self._invoke("wait", wait.task_id, wait.attempt, "", signal=wait.signal)
        for failure in request.failures:
            self._invoke("failure", failure.task_id, failure.attempt, "", reason=failure.error.reason)

    def heard(self, response: pb.WorkResponse) -> None:
        """Called with each message that arrived."""
        for lease in response.leases:
            self._recorder.note("lease", task_id=lease.task.task_id, attempt=lease.task.attempt)
        for ack in response.acks:
            self._answer((ack.task_id, ack.attempt, ack.step_id), OK)
        for refusal in response.refusals:
            self._answer((refusal.task_id, refusal.attempt, refusal.step_id), FAIL, reason=refusal.reason)

    def _invoke(self, what: str, task_id: str, attempt: int, step: str, **asked: Any) -> None:
        key = (task_id, attempt, step)
        if key not in self._open:
            self._open[key] = self._recorder.invoke(what, task_id=task_id, attempt=attempt, **asked)

    def _answer(self, key: tuple[str, int, str], outcome: str, **told: Any) -> None:
        number = self._open.pop(key, None)
        if number is not None:
            self._recorder.outcome(number, outcome, **told)


class RecordingChannel:
    """A channel on which the messages of streams are seen at the moment they become bytes, or cease to be."""

    def __init__(self, channel: grpc.aio.Channel, told: Told) -> None:
        self._channel = channel
        self._told = told

    def stream_stream(
        self, method: str, request_serializer: Callable[[Any], bytes], response_deserializer: Callable[[bytes], Any], **rest: Any
    ) -> Any:
        """As the channel's own."""

        def serialize(message: Any) -> bytes:
            self._told.sent(message)
            return request_serializer(message)

        def deserialize(data: bytes) -> Any:
            message = response_deserializer(data)
            self._told.heard(message)
            return message

        return self._channel.stream_stream(method, serialize, deserialize, **rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)


async def do(task: Task, lease_seconds: float) -> Any:
    """What the label `do` asks for."""
    match task.message.labels.get("do", ""):
        case "steps":
            for step_id in ("one", "two"):
                await task.step(step_id, lambda: _value(task.attempt))
        case "retry" if task.attempt == 1:
            raise TaskFailed("AGAIN", "the first attempt fails", retryable=True)
        case "fail":
            raise TaskFailed("HOPELESS", "every attempt fails")
        case "nap":
            await asyncio.sleep(0.02)
        case "hold":
            await asyncio.sleep(0.1)
        case "hold long":
            await asyncio.sleep(3)
        case "ask" | "ask later" | "ask slowly" as how:
            await task.step("before", lambda: _value(task.attempt))
            if how == "ask slowly":
                await asyncio.sleep(0.5)
            await task.wait_for(SIGNAL, prompt="go on?", timeout=60)
        case "slow":
            # Longer than a lease: it lives by its heartbeats.
            await asyncio.sleep(1.3 * lease_seconds)
    return {"tag": task.description, "attempt": task.attempt}


async def _value(attempt: int) -> Any:
    return {"attempt": attempt}


def _channel(target: str, tls: Path) -> grpc.aio.Channel:
    """A channel with connections of its own to every scheduler; a stream goes to one that has answered."""
    credentials = grpc.ssl_channel_credentials(*((tls / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")))
    options = [
        ("grpc.ssl_target_name_override", f"scheduler{IDENTITY_SUFFIX}"),
        ("grpc.service_config", service_config("scheduler")),
        ("grpc.use_local_subchannel_pool", 1),
        # Later than any test waits: who is silent must be noticed by the stream.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
    return grpc.aio.secure_channel(target, credentials, options=options)


async def main() -> None:
    settings = json.loads(os.environ[SETTINGS])
    recorder = Recorder(Path(settings["history"]), settings["who"])
    told = Told(recorder)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        # Told may be asked by two streams at a time: a report that both tell is one operation.
        async with _channel(settings["target"], Path(settings["tls"])) as channel:
            yield RecordingChannel(channel, told)

    worker = Worker(
        open_channel=opened,
        metadata=metadata(AGENT, via="agent"),
        concurrency=settings["concurrency"],
        worker_id=settings["who"],
        all_tenants=True,
        drain_seconds=5.0,
    )

    @worker.task(KIND)
    async def run(task: Task) -> Any:
        number = recorder.invoke("run", task_id=task.task_id, attempt=task.attempt)
        try:
            return await do(task, settings["lease_seconds"])
        finally:
            recorder.outcome(number, OK)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()


if __name__ == "__main__":
    uvloop.run(main())
