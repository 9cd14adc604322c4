"""Opening encrypted events: the format that other languages go by, and who asks for which key how often."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Value
from guildmesh.events.v1.task_event_pb2 import EVENT_CONTENT_ENCRYPTED, TaskEvent
from guildmesh.scheduler.v1 import event_key_service_pb2 as pb
from guildmesh.scheduler.v1 import event_key_service_pb2_grpc as pb_grpc
from guildmesh_client.event_keys import EventKeys, KeyNotGiven, WrongKey, open_event

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "keep-text-off-kafka.md"
KEY, KEY_ID, TASK_ID = bytes(range(64)), "01990000-0000-7000-8000-00000000000a", "01990000-0000-7000-8000-000000000001"


def vector(name: str) -> bytes:
    found = re.search(rf"^\| {re.escape(name)} \| `([0-9a-f]+)` \|$", PAGE.read_text(), re.MULTILINE)
    assert found, f"the page has no {name}"
    return bytes.fromhex(found.group(1))


def an_event(**changes: Any) -> TaskEvent:
    fields = {
        "task_id": TASK_ID, "number": 3, "data_key_id": KEY_ID, "content": EVENT_CONTENT_ENCRYPTED,
        "encrypted_event": vector("`encrypted_event`"),
    }  # fmt: skip
    return TaskEvent(**(fields | changes))


def test_the_documented_vector_opens() -> None:
    opened = open_event(an_event(), KEY)
    assert opened == TaskEvent.FromString(vector("plaintext"))
    assert opened.completed.result == Value(string_value="four")
    assert f"guildmesh.events.v1.TaskEvent/{KEY_ID}/{TASK_ID}/3" in PAGE.read_text()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"number": 4}, KEY),
        ({"task_id": KEY_ID}, KEY),
        ({"data_key_id": TASK_ID}, KEY),
        ({"encrypted_event": b"\0" * 40}, KEY),
        ({}, bytes(64)),
    ],
)
def test_what_was_moved_or_changed_does_not_open(changes: dict[str, Any], key: bytes) -> None:
    with pytest.raises(WrongKey, match="does not open with this key"):
        open_event(an_event(**changes), key)


def test_an_event_of_which_nothing_is_encrypted_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="nothing of this event is encrypted"):
        open_event(an_event(encrypted_event=b""), KEY)


class Keys(pb_grpc.EventKeyServiceServicer):
    """A service that has one key, and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def GetEventKey(self, request: pb.GetEventKeyRequest, context: Any) -> pb.EventKey:
        self.asked.append(request.key_id)
        if request.key_id != KEY_ID:
            await context.abort(grpc.StatusCode.NOT_FOUND, "it was destroyed")
        return pb.EventKey(key_id=KEY_ID, key=KEY)


async def test_a_key_is_asked_for_once_and_one_that_is_gone_is_told() -> None:
    server, service = grpc.aio.server(), Keys()
    pb_grpc.add_EventKeyServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            keys = EventKeys(channel)
            for _ in range(3):
                assert (await keys.open(an_event())).completed.result.string_value == "four"
            plain = TaskEvent(task_id=TASK_ID)
            assert await keys.open(plain) is plain
            with pytest.raises(KeyNotGiven, match="it was destroyed"):
                await keys.open(an_event(data_key_id=TASK_ID))
    finally:
        await server.stop(None)
    assert service.asked == [KEY_ID, TASK_ID]
