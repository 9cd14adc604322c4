"""Server-sent events (WHATWG HTML, 9.2) of a task."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator

from google.api.httpbody_pb2 import HttpBody
from google.protobuf import json_format
from guildmesh.events.v1.task_event_pb2 import TaskEvent

from services.common.json_values import whole_numbers
from services.scheduler.domain.task import StoredEvent
from services.scheduler.usecases.watch_tasks import Seen

CONTENT_TYPE = "text/event-stream"
KEEP_ALIVE = HttpBody(content_type=CONTENT_TYPE, data=b": keep-alive\n\n")
# A browser that lost its connection comes back after a second; its own default is several.
BEGIN = HttpBody(content_type=CONTENT_TYPE, data=b"retry: 1000\n\n")
END = HttpBody(content_type=CONTENT_TYPE, data=b"event: end\ndata: {}\n\n")


# Within which the first read has told an unknown task; a browser hears then that it is connected, though nothing happens.
_FIRST_SECONDS = 0.5


async def as_sse(events: AsyncIterator[StoredEvent], keep_alive_seconds: float) -> AsyncGenerator[HttpBody]:
    """The events as `id:`, `event:`, `data:`; a comment whenever there was nothing for a while; a last `event: end`.

    When to come back is said once the task is known to be there, so that one that is not is an error of the call.
    """
    reading = asyncio.ensure_future(anext(events, None))
    begun = False
    try:
        while True:
            done, _ = await asyncio.wait([reading], timeout=keep_alive_seconds if begun else _FIRST_SECONDS)
            if not begun and (not done or reading.exception() is None):
                begun = True
                yield BEGIN
                continue
            if not done:
                yield KEEP_ALIVE
                continue
            event = reading.result()
            if event is None:
                yield END
                return
            yield event_message(event)
            reading = asyncio.ensure_future(anext(events, None))
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def event_message(event: StoredEvent) -> HttpBody:
    """One event of a task."""
    return _message(str(event.number), event.value)


def seen_message(seen: Seen) -> HttpBody:
    """One event of many tasks; or a comment, with the place of the stream, which a browser keeps though no event comes of it."""
    if seen.event is None:
        return HttpBody(content_type=CONTENT_TYPE, data=f": keep-alive\nid: {seen.token}\n\n".encode())
    return _message(seen.token, seen.event.value)


def _message(event_id: str, value: bytes) -> HttpBody:
    """Its JSON has no line breaks, so one data line holds it."""
    event = TaskEvent.FromString(value)
    fields = json_format.MessageToDict(event, preserving_proto_field_name=True)
    # Whole numbers of a Struct are written as the gateway writes them on every other path.
    data = json.dumps(whole_numbers(fields), ensure_ascii=False)
    return HttpBody(content_type=CONTENT_TYPE, data=f"id: {event_id}\nevent: {event.type}\ndata: {data}\n\n".encode())
