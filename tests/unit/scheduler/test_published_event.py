"""What Kafka gets of an event in queues that keep their texts off it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Value
from guildmesh.events.v1 import task_event_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from services.common.ids import new_id
from services.scheduler.domain.event_cipher import EventCipher, new_key
from services.scheduler.domain.event_content import LARGE, EventContent, EventKey
from services.scheduler.domain.events import (
    Change,
    Completed,
    Created,
    Failed,
    Output,
    Signalled,
    Started,
    StepCompleted,
    ToolReturned,
    Waiting,
)
from services.scheduler.domain.payload import PayloadReference, referenced_result
from services.scheduler.domain.run import Run
from services.scheduler.domain.task import State
from services.scheduler.relay.dead_letters import dead_letter_of, failures
from services.scheduler.relay.headers import dead_letter_headers, headers_of, headers_on_the_wire
from services.scheduler.relay.record_batch import encode_headers
from services.scheduler.storage.event_codec import encode_event, encode_reference, encode_snapshot
from services.scheduler.storage.outbox_codec import pack, unpack
from services.scheduler.storage.published_event import published_event
from tests.unit.scheduler.test_event_codec import CHANGES, RUNS, by_protobuf, returned

NOW = datetime(2026, 11, 28, tzinfo=UTC)
MARKER = "a-text-of-a-user"
TEXT = Value(string_value=MARKER).SerializeToString()
KEY = EventKey("01990000-0000-7000-8000-00000000000a", "acme", "ada", bytes(range(64)), NOW)
PLAIN, OMIT, ENCRYPTED = EventContent.PLAIN, EventContent.OMIT, EventContent.ENCRYPTED
TEXTS = {
    "created": ["description"],
    "step_completed": ["result"],
    "retried": ["message"],
    "completed": ["result"],
    "failed": ["message"],
    "cancelled": ["cause"],
    "waiting": ["prompt"],
    "signalled": ["value", "prompt"],
    "output": ["text"],
    "tool_returned": ["result", "error"],
}


def a_run(task_id: str = "01990000-0000-7000-8000-000000000001") -> Run:
    return Run("acme", task_id, 0, State.RUNNING, "research", "agent.task", 5, 1, 5, 1000, 3, False, None, "", NOW)


def an_event(change: Change, number: int = 2) -> bytes:
    return encode_event(a_run(), number, change, "worker-1", NOW)


def expected(run: Run, number: int, change: Change, actor: str, now: datetime, *, hashes: bool) -> pb.TaskEvent:
    """What protobuf makes of it."""
    event = by_protobuf(run, number, change, actor, now)
    which = event.WhichOneof("change")
    assert which is not None
    part: Any = getattr(event, which)
    content = int(OMIT if hashes else ENCRYPTED)
    for name in TEXTS.get(which, []):
        text = getattr(part, name)
        body = text.encode() if isinstance(text, str) else text.SerializeToString(deterministic=True)
        if body:
            part.ClearField(name)
            setattr(part, f"{name}_size_bytes", len(body))
            if hashes:
                setattr(part, f"{name}_sha256", hashlib.sha256(body).hexdigest())
            event.content = content
    if which == "created":
        if part.labels:
            part.omitted_labels = len(part.labels)
            part.ClearField("labels")
            event.content = content
        if part.HasField("context_payload") and not hashes:
            part.context_payload.sha256 = ""
            event.content = content
    return event


@given(RUNS, st.integers(1, 2**31 - 1), CHANGES, st.text(max_size=20), st.sampled_from((OMIT, ENCRYPTED)))
def test_texts_are_left_out_as_protobuf_would_write_it(
    run: Run, number: int, change: Change, actor: str, content: EventContent
) -> None:
    value = encode_event(run, number, change, actor, NOW)
    event = expected(run, number, change, actor, NOW, hashes=content is OMIT)
    published = published_event(value, content)
    assert pb.TaskEvent.FromString(published.value) == event
    assert published.value == event.SerializeToString(deterministic=True)
    assert published == published_event(value, content), "a second time it is the same"
    assert published_event(value, PLAIN) == (value, "")


@given(RUNS, st.integers(1, 2**31 - 1), CHANGES, st.text(max_size=20))
def test_what_is_encrypted_opens_to_what_the_log_has(run: Run, number: int, change: Change, actor: str) -> None:
    value = encode_event(run, number, change, actor, NOW)
    published = published_event(value, ENCRYPTED, KEY)
    event = pb.TaskEvent.FromString(published.value)
    assert published == published_event(value, ENCRYPTED, KEY), "a second time it is the same"
    if not event.content:
        assert published == (value, "")
        return
    assert (event.content, event.data_key_id, published.key_id) == (pb.EVENT_CONTENT_ENCRYPTED, KEY.key_id, KEY.key_id)
    assert KEY.cipher.open(run.task_id, number, event.encrypted_event) == value
    with pytest.raises(ValueError, match="was not encrypted with this key"):
        KEY.cipher.open(run.task_id, number + 1, event.encrypted_event)
    with pytest.raises(ValueError, match="was not encrypted with this key"):
        EventCipher(KEY.key_id, new_key()).open(run.task_id, number, event.encrypted_event)


@pytest.mark.parametrize(
    "change",
    [
        Created(MARKER, 5, {MARKER: "1", "x": MARKER}),
        StepCompleted("search", TEXT),
        Completed(TEXT),
        Failed("BROKEN", MARKER),
        Waiting("approve", MARKER, NOW),
        Output(1, MARKER),
        Signalled("approve", TEXT, MARKER),
        ToolReturned("tool", "x/1/returned", returned(MARKER, MARKER, "")),
    ],
)
def test_no_byte_of_a_text_is_left(change: Change) -> None:
    value = an_event(change)
    assert MARKER.encode() in value
    assert MARKER.encode() not in published_event(value, OMIT).value
    encrypted = published_event(value, ENCRYPTED, KEY).value
    assert MARKER.encode() not in encrypted
    assert hashlib.sha256(MARKER.encode()).hexdigest().encode() not in encrypted
    assert hashlib.sha256(TEXT).hexdigest().encode() not in encrypted


def test_a_large_result_goes_by_size_hash_and_reference() -> None:
    result = Value(string_value="x" * LARGE).SerializeToString()
    event = pb.TaskEvent.FromString(published_event(an_event(Completed(result)), PLAIN).value)
    assert event.content == pb.EVENT_CONTENT_OMIT
    assert event.completed == pb.TaskCompleted(
        result_size_bytes=len(result), result_sha256=hashlib.sha256(result).hexdigest(), reference=f"/v1/tasks/{event.task_id}"
    )
    small = Value(string_value="x" * (LARGE - 10)).SerializeToString()
    assert len(small) <= LARGE
    value = an_event(Completed(small))
    assert len(value) > LARGE
    assert published_event(value, PLAIN).value == value, "the limit is on the result and not on the event"
    description = an_event(Created("x" * 2 * LARGE, 5, {}))
    assert published_event(description, PLAIN).value == description


def test_of_a_large_answer_to_a_question_the_question_stays() -> None:
    answer = Value(string_value="x" * LARGE).SerializeToString()
    event = pb.TaskEvent.FromString(published_event(an_event(Signalled("approve", answer, MARKER)), PLAIN).value)
    assert event.signalled == pb.TaskSignalled(
        signal="approve",
        prompt=MARKER,
        value_size_bytes=len(answer),
        value_sha256=hashlib.sha256(answer).hexdigest(),
        reference=f"/v1/tasks/{event.task_id}/events",
    )
    value = an_event(ToolReturned("tool", "x/1/returned", returned("", "x" * LARGE, "")))
    published = published_event(value, PLAIN).value
    event = pb.TaskEvent.FromString(published)
    assert (event.source, event.source_id, event.content) == ("tool", "x/1/returned", pb.EVENT_CONTENT_OMIT)
    assert event.tool_returned.reference == f"/v1/tasks/{event.task_id}/events"
    assert not event.tool_returned.HasField("result")
    assert published == event.SerializeToString(deterministic=True)


def test_a_dead_letter_has_the_message_as_its_event_has_it() -> None:
    value = an_event(Failed("BROKEN", MARKER))
    digest = hashlib.sha256(MARKER.encode()).hexdigest()
    for content, key, message, size, sha256 in (
        (PLAIN, None, MARKER, 0, ""),
        (OMIT, None, "", len(MARKER), digest),
        (ENCRYPTED, KEY, "", len(MARKER), ""),
    ):
        published, key_id = published_event(value, content, key)
        [record] = failures(unpack(pack(0, a_run().task_id, "trace", published, b"", key_id)))
        letter = dead_letter_of(record.value)
        assert (letter.message, letter.message_size_bytes, letter.message_sha256) == (message, size, sha256)
        headers = dict(dead_letter_headers(letter, record.traceparent.decode()))
        assert headers["traceparent"] == b"trace"
        assert "ce_datakeyid" not in headers


def test_what_is_in_a_payload_is_not_told_beside_what_is_encrypted() -> None:
    reference = PayloadReference(new_id(), 5_000_000, "ab" * 32)
    value = encode_event(a_run(), 2, Completed(referenced_result(encode_reference(reference))), "w", NOW)
    event = pb.TaskEvent.FromString(published_event(value, ENCRYPTED, KEY).value)
    named = event.completed.result_payload
    assert (named.payload_id, named.size_bytes, named.sha256) == (reference.payload_id, 5_000_000, "")
    assert pb.TaskEvent.FromString(KEY.cipher.open(event.task_id, 2, event.encrypted_event)).completed.result_payload.sha256
    assert published_event(value, OMIT).value == value, "of a payload a record has no more than size and hash in any case"


def test_a_snapshot_tells_of_the_result_its_size_and_unless_encrypted_its_hash() -> None:
    run = a_run()
    run.state, run.result = State.COMPLETED, TEXT
    snapshot = pb.TaskSnapshot.FromString(encode_snapshot(run, 3, NOW))
    assert (snapshot.result_size_bytes, snapshot.result_sha256) == (len(TEXT), hashlib.sha256(TEXT).hexdigest())
    assert snapshot.SerializeToString(deterministic=True) == encode_snapshot(run, 3, NOW)
    snapshot = pb.TaskSnapshot.FromString(encode_snapshot(run, 3, NOW, hashes=False))
    assert (snapshot.result_size_bytes, snapshot.result_sha256) == (len(TEXT), "")
    run.result = referenced_result(encode_reference(PayloadReference(new_id(), 7, "ab" * 32)))
    assert pb.TaskSnapshot.FromString(encode_snapshot(run, 3, NOW, hashes=True)).result_payload.sha256 == "ab" * 32
    assert pb.TaskSnapshot.FromString(encode_snapshot(run, 3, NOW, hashes=False)).result_payload.sha256 == ""
    run.state, run.result, run.error_message = State.FAILED, None, MARKER
    for hashes, digest in ((True, hashlib.sha256(MARKER.encode()).hexdigest()), (False, "")):
        snapshot = pb.TaskSnapshot.FromString(encode_snapshot(run, 3, NOW, hashes=hashes))
        assert (snapshot.error_message_size_bytes, snapshot.error_message_sha256) == (len(MARKER), digest)


def test_the_key_is_named_in_the_headers() -> None:
    value, key_id = published_event(an_event(Completed(TEXT)), ENCRYPTED, KEY)
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    task_id = a_run().task_id
    for trace in (traceparent, ""):
        [record] = unpack(pack(0, task_id, trace, value, b"", key_id))
        told = dict(headers_of(pb.TaskEvent.FromString(value), record.traceparent.decode()))
        assert told["ce_datakeyid"] == KEY.key_id.encode()
        assert told.get("traceparent", b"") == trace.encode()
        on_the_wire = headers_on_the_wire(record.key, record.value, record.traceparent)
        assert on_the_wire == encode_headers(headers_of(pb.TaskEvent.FromString(value), record.traceparent.decode()))
    [plain] = unpack(pack(0, task_id, traceparent, an_event(Started("w")), b""))
    assert "ce_datakeyid" not in dict(headers_of(pb.TaskEvent.FromString(plain.value), plain.traceparent.decode()))


def test_the_choice_with_less_text_holds() -> None:
    assert PLAIN.at_least(ENCRYPTED) is ENCRYPTED
    assert OMIT.at_least(ENCRYPTED) is OMIT
    assert ENCRYPTED.at_least(OMIT) is OMIT
    assert ENCRYPTED.at_least(PLAIN) is ENCRYPTED
