"""A reader of one channel, a process of its own that may be killed: `python -m tests.faults.channels.readers CHANNEL`.

Its settings are JSON in the variable SETTINGS. It writes what it sees to its notebook, and after a kill goes on behind that, by
what the channel itself offers: a resume token, `Last-Event-ID`, the offsets of a consumer group, the repeats of a webhook.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import sys
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import httpx
from aiokafka import AIOKafkaConsumer
from google.protobuf import json_format
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh_client.tasks import TaskClient
from guildmesh_client.webhooks import event_of, verify

from tests.faults.channels.record import Notebook

SETTINGS = "CHANNEL_SETTINGS"
TOPIC = "guildmesh.task-events.v1"
KIND = "channels.talk"
_FILTER = f"kind = {KIND}"
_PAUSE = 0.3
# The gateway gives up a stream on which nothing comes; comments come every 15 s.
_SILENCE_SECONDS = 40.0


async def stream(settings: dict[str, Any], notebook: Notebook) -> None:
    """gRPC: WatchTasks by the client library, from the resume token of the last event."""
    start = None if notebook.place else datetime.fromtimestamp(settings["since"], UTC)
    metadata = [("authorization", f"Bearer {settings['token']}")]
    async with grpc.aio.insecure_channel(settings["grpc"]) as channel:
        tasks = TaskClient(channel, metadata, timeout=120.0)
        async for each in tasks.watch_tasks(_FILTER, resume_token=notebook.place, start_time=start):
            notebook.write([(each.event, each.resume_token)])


async def sse(settings: dict[str, Any], notebook: Notebook) -> None:
    """Server-sent events through Envoy, as a browser's EventSource: what was seen last goes back as Last-Event-ID."""
    since = datetime.fromtimestamp(settings["since"], UTC).isoformat().replace("+00:00", "Z")
    place = notebook.place
    timeout = httpx.Timeout(10.0, read=_SILENCE_SECONDS)
    async with httpx.AsyncClient(base_url=settings["url"], timeout=timeout) as client:
        while True:
            headers = {"authorization": f"Bearer {settings['token']}", "accept": "text/event-stream"}
            headers |= {"last-event-id": place} if place else {}
            query = {"filter": _FILTER} | ({} if place else {"start_time": since})
            with contextlib.suppress(httpx.HTTPError):
                async with client.stream("GET", "/v1/events", params=query, headers=headers) as response:
                    if response.status_code == httpx.codes.OK:
                        async for event_id, data in _messages(response.aiter_lines()):
                            place = event_id
                            if data:
                                notebook.write([(json_format.Parse(data, TaskEvent()), place)])
            await asyncio.sleep(_PAUSE)


async def _messages(lines: AsyncIterator[str]) -> AsyncIterator[tuple[str, str]]:
    """`id:` and `data:` of each message; a message is there when an empty line ends it."""
    event_id, data = "", ""
    async for line in lines:
        if not line:
            if event_id:
                yield event_id, data
            event_id, data = "", ""
        name, _, value = line.partition(": ")
        if name == "id":
            event_id = value
        elif name == "data":
            data = value


async def kafka(settings: dict[str, Any], notebook: Notebook) -> None:
    """Kafka: a consumer group that commits what its notebook has."""
    consumer = AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=settings["kafka"],
        group_id="channels",
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=6000,
        heartbeat_interval_ms=1000,
    )
    # One that is left behind unstopped would keep its partitions for minutes, since its heartbeats go on.
    async with consumer:
        while True:
            found = await consumer.getmany(timeout_ms=500)
            events = [TaskEvent.FromString(record.value) for records in found.values() for record in records]
            if events:
                notebook.write([(event, "") for event in events if event.kind == KIND])
                await consumer.commit()


async def webhook(settings: dict[str, Any], notebook: Notebook) -> None:
    """A webhook: an event is taken once it is in the notebook; what a kill left without an answer comes again."""

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            verify(settings["webhook_secret"], dict(self.headers.items()), body)
            event = event_of(body)
            assert self.headers["Idempotency-Key"] == f"{event.task_id}/{event.number}"
            with lock:
                notebook.write([(event, "")])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    lock = threading.Lock()
    with http.server.ThreadingHTTPServer(("127.0.0.1", settings["webhook_port"]), Receiver) as server:
        await asyncio.to_thread(server.serve_forever)


CHANNELS = {"stream": stream, "sse": sse, "kafka": kafka, "webhook": webhook}


async def _always(channel: str, settings: dict[str, Any]) -> None:
    """Begins again after whatever ends a reader, as its author would have it do."""
    notebook = Notebook(Path(settings["folder"]) / f"{channel}.events")
    while True:
        try:
            await CHANNELS[channel](settings, notebook)
        except Exception as error:
            print(f"{channel}: {error!r}", file=sys.stderr, flush=True)
        await asyncio.sleep(_PAUSE)


if __name__ == "__main__":
    asyncio.run(_always(sys.argv[1], json.loads(os.environ[SETTINGS])))
