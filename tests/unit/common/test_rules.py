"""The quick test never says yes where protovalidate would find something; protovalidate is asked about every request type."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import guildmesh.scheduler.v1
import protovalidate
import pytest
from buf.validate import validate_pb2
from google.protobuf import duration_pb2, struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from guildmesh.agent.v1 import agent_service_pb2
from guildmesh.identity.v1 import identity_service_pb2 as identity_pb
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.rules import quick_test

ROOT = Path(next(iter(guildmesh.scheduler.v1.__path__))).parents[1]


def request_types() -> list[Descriptor]:
    found: dict[str, Descriptor] = {}
    for path in sorted(ROOT.glob("*/v1/*_service_pb2.py")):
        module = importlib.import_module(".".join(("guildmesh", *path.with_suffix("").relative_to(ROOT).parts)))
        for service in module.DESCRIPTOR.services_by_name.values():
            found |= {method.input_type.full_name: method.input_type for method in service.methods}
    return list(found.values())


REQUEST_TYPES = request_types()


def mostly(good: st.SearchStrategy[Any], wild: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Good values but for one in twelve: beside a second bad value, the first could go unseen."""
    return st.integers(0, 11).flatmap(lambda number: wild if number == 0 else good)


def numbers(rules: Any, zero: float) -> st.SearchStrategy[Any]:
    """At the limits and, seldom, just beyond them."""
    limits = [getattr(rules, name) for name in ("gte", "lte") if rules is not None and rules.HasField(name)]
    wild = [zero, *(limit + by for limit in limits for by in (-1, 1))]
    return mostly(st.sampled_from(limits or [zero, zero + 1]), st.sampled_from(wild))


def texts(rules: Any) -> st.SearchStrategy[str]:
    odd = st.text(max_size=8) | st.sampled_from(["", "a", "a\n", "\n", "é", "A_B", "0", "a-b", "-a", "x y", "²", "ａ"])
    if rules is None:
        return odd
    lengths = [length for length in (rules.min_len, rules.max_len) if length < 10_001 and (length or not rules.min_len)]
    beyond = st.sampled_from(["ä" * max(0, length + by) for length in (*lengths, 1) for by in (-1, 0, 1)])
    good: st.SearchStrategy[str] = st.sampled_from(["ä" * length for length in (*lengths, max(1, rules.min_len))])
    if rules.pattern:
        matching = st.from_regex(re.compile(rules.pattern, re.ASCII), fullmatch=True)
        good = matching.map(lambda text: text.strip()[: rules.max_len or None])
        beyond = st.one_of(matching.map(lambda text: text + "\n"), matching.map(lambda text: f" {text}"), beyond)
    if allowed := sorted(getattr(rules, "in")):
        good = st.sampled_from(allowed)
    return mostly(good, odd | beyond)


def values(field: FieldDescriptor, rules: Any) -> st.SearchStrategy[Any]:
    kind = rules.WhichOneof("type") if rules is not None else None
    own = getattr(rules, kind) if kind else None
    if field.message_type is not None:
        if kind == "duration":
            return st.builds(
                duration_pb2.Duration,
                seconds=mostly(
                    st.sampled_from([own.gte.seconds, own.lte.seconds - 1]),
                    st.sampled_from([0, own.gte.seconds - 1, own.lte.seconds, own.lte.seconds + 1]),
                ),
                nanos=st.sampled_from([0, 1, 999_999_999]),
            )
        return messages(field.message_type)
    if field.type == FieldDescriptor.TYPE_STRING:
        return texts(own)
    if field.type == FieldDescriptor.TYPE_ENUM and field.enum_type is not None:
        return mostly(st.sampled_from(list(field.enum_type.values_by_number)), st.just(77))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=4)
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return mostly(numbers(own, 0.0), st.sampled_from([float("nan"), float("inf"), -0.0, 0.5]))
    if field.cpp_type in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64):
        return numbers(own, 1)
    return numbers(own, 0)


def counts(rules: Any, least: str, most: str) -> st.SearchStrategy[int]:
    limits = [limit for name in (least, most) if 0 < (limit := getattr(rules, name)) <= 100]
    wild = [0, 3, *(limit + by for limit in limits for by in (-1, 1))]
    return mostly(st.sampled_from(limits or [0, 1, 2]), st.sampled_from(wild))


@st.composite
def messages(draw: Any, descriptor: Descriptor) -> Message:
    message = GetMessageClass(descriptor)()
    if descriptor.full_name.startswith("google.protobuf."):
        if isinstance(message, struct_pb2.Struct):
            message.update({"a": 1, "b": [None, "c"]})
        return message
    for field in descriptor.fields:
        rules = field.GetOptions().Extensions[validate_pb2.field]
        if draw(st.integers(0, 11)) == 0 or (field.has_presence and not rules.required and draw(st.booleans())):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = (field.message_type.fields_by_name[side] for side in ("key", "value"))
            for number in range(draw(counts(rules.map, "min_pairs", "max_pairs"))):
                item = draw(values(key, rules.map.keys))
                item = f"{item[:60]}{number}" if isinstance(item, str) and number else item
                if value.message_type is None:
                    getattr(message, field.name)[item] = draw(values(value, rules.map.values))
        elif field.is_repeated:
            many = draw(counts(rules.repeated, "min_items", "max_items"))
            items = draw(st.lists(values(field, rules.repeated.items), max_size=3, min_size=min(many, 1)))
            getattr(message, field.name).extend((items * many)[:many])
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(values(field, rules)))
        else:
            setattr(message, field.name, draw(values(field, rules)))
    return message


@pytest.mark.parametrize("descriptor", REQUEST_TYPES, ids=lambda descriptor: descriptor.name)
def test_what_is_surely_good_is_good_to_protovalidate(descriptor: Descriptor) -> None:
    obeys = quick_test(descriptor)
    validator = protovalidate.Validator()

    @settings(max_examples=40, deadline=None)
    @given(messages(descriptor))
    def holds(message: Message) -> None:
        found = validator.collect_violations(message)
        if obeys is not None:
            # The other way round is no duty of the quick test, but without it nothing would be gained.
            assert bool(obeys(message)) is not bool(found), (message, found)

    holds()


def task(**fields: Any) -> pb.CreateTaskRequest:
    return pb.CreateTaskRequest(task=task_pb2.Task(**{"description": "x", **fields}))


def hello(**fields: Any) -> worker_pb.WorkRequest:
    return worker_pb.WorkRequest(hello=worker_pb.WorkerHello(**{"worker_id": "w", "kinds": ["k"], **fields}))


def put_out(text: str) -> worker_pb.WorkRequest:
    return worker_pb.WorkRequest(outputs=[worker_pb.TaskOutputChunk(task_id="t", attempt=1, sequence=1, text=text)])


def waits(seconds: int, nanos: int = 0) -> pb.CreateTaskRequest:
    return task(timeout=duration_pb2.Duration(seconds=seconds, nanos=nanos))


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (task(), pb.CreateTaskRequest()),
        (task(description="ä" * 10_000), task(description="ä" * 10_001)),
        (task(priority=10), task(priority=11)),
        (task(priority=1), task(priority=0)),
        (task(queue="a-1"), task(queue="A")),
        (task(labels={"k" * 63: "v" * 255}), task(labels={"k": "v" * 256})),
        (task(labels={"k": ""}), task(labels={"k" * 64: "v"})),
        (task(labels={"k": "v"}), task(labels={"": "v"})),
        (task(labels={str(n): "" for n in range(32)}), task(labels={str(n): "" for n in range(33)})),
        (waits(10), waits(9, 999_999_999)),
        (waits(3600), waits(3600, 1)),
        (task(error=task_pb2.TaskError(reason="A")), task(error=task_pb2.TaskError(reason="a"))),
        (pb.ListTasksRequest(state=1), pb.ListTasksRequest(state=77)),  # type: ignore[arg-type]
        (hello(), hello(kinds=[])),
        (hello(kinds=["k"] * 100), hello(kinds=["k"] * 101)),
        (hello(queues=["q" * 63]), hello(queues=["q", "q" * 64])),
        (
            worker_pb.WorkRequest(failures=[worker_pb.TaskFailure(error=task_pb2.TaskError(reason="A"))]),
            worker_pb.WorkRequest(failures=[worker_pb.TaskFailure()]),
        ),
        (put_out("ä" * 2048), put_out("ä" * 2049)),
        (put_out("x" * 4096), put_out("x" * 4097)),
        (put_out("x"), put_out("")),
        (pb.BatchCreateTasksRequest(requests=[pb.CreateTaskRequest()]), pb.BatchCreateTasksRequest()),
    ],
    ids=lambda message: str(message).replace("\n", " ")[:40],
)
def test_each_kind_of_rule_tells_good_from_bad(good: Message, bad: Message) -> None:
    # One bad value each: in a random message another one often hides whether this one was seen.
    obeys = quick_test(good.DESCRIPTOR)  # type: ignore[arg-type]
    assert obeys is not None
    assert (bool(obeys(good)), protovalidate.collect_violations(good)) == (True, [])
    assert not obeys(bad)
    assert protovalidate.collect_violations(bad)


def test_only_rules_in_another_language_are_left_to_protovalidate() -> None:
    assert {descriptor.name for descriptor in REQUEST_TYPES if quick_test(descriptor) is None} == {
        "CreateUserRequest",
        "CreateTenantRequest",
        "CreateScenarioRequest",
    }


def test_a_text_is_matched_as_a_whole_however_often_it_comes() -> None:
    obeys = quick_test(pb.CreateTaskRequest.DESCRIPTOR)
    assert obeys is not None
    for _ in range(2):
        assert obeys(pb.CreateTaskRequest(task=task_pb2.Task(description="x", kind="sum")))
        assert not obeys(pb.CreateTaskRequest(task=task_pb2.Task(description="x", kind="sum\n")))
        assert not obeys(pb.CreateTaskRequest(task=task_pb2.Task(description="x", kind="Sum")))


def test_a_bad_item_deep_in_a_stream_s_message_is_seen() -> None:
    obeys = quick_test(worker_pb.WorkRequest.DESCRIPTOR)
    assert obeys is not None
    message = worker_pb.WorkRequest(heartbeats=[worker_pb.TaskHeartbeat(task_id="a", attempt=1)] * 3)
    assert obeys(message)
    message.heartbeats[2].progress = 1.5
    assert not obeys(message)


def test_a_type_whose_rules_are_not_known_has_no_test() -> None:
    assert quick_test(identity_pb.CreateUserRequest.DESCRIPTOR) is None
    assert quick_test(agent_service_pb2.CreateScenarioRequest.DESCRIPTOR) is None
