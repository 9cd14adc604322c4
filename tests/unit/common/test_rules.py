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


def numbers(rules: Any, zero: float) -> st.SearchStrategy[Any]:
    """At the limits, just beyond them, and nothing."""
    limits = [getattr(rules, name) for name in ("gte", "lte") if rules is not None and rules.HasField(name)]
    return st.sampled_from(
        [zero, zero + 1, zero - 1, *limits, *(limit + 1 for limit in limits), *(limit - 1 for limit in limits)]
    )


def texts(rules: Any) -> st.SearchStrategy[str]:
    choices = [st.text(max_size=8), st.sampled_from(["", "a", "a\n", "\n", "é", "A_B", "0", "a-b", "-a", "x y", "²", "ａ"])]
    if rules is not None:
        lengths = [length for length in (rules.min_len, rules.max_len) if 0 < length < 2_100]
        choices += [st.sampled_from(["x" * max(0, length + by) for length in lengths for by in (-1, 0, 1)])] if lengths else []
        choices += [st.sampled_from(["ä" * length for length in lengths])] if lengths else []
        if rules.pattern:
            good = st.from_regex(re.compile(rules.pattern, re.ASCII))
            choices += [good, good, good.map(lambda text: text + "\n"), good.map(lambda text: f" {text}")]
        if getattr(rules, "in"):
            choices.append(st.sampled_from(sorted(getattr(rules, "in"))))
    return st.one_of(choices)


def values(field: FieldDescriptor, rules: Any) -> st.SearchStrategy[Any]:
    kind = rules.WhichOneof("type") if rules is not None else None
    own = getattr(rules, kind) if kind else None
    if field.message_type is not None:
        if kind == "duration":
            ends = [0, 9, 10, 11, *(end.seconds + by for end in (own.gte, own.lte) for by in (-1, 0, 1))]
            return st.builds(duration_pb2.Duration, seconds=st.sampled_from(ends), nanos=st.sampled_from([0, 1, 999_999_999]))
        return messages(field.message_type)
    if field.type == FieldDescriptor.TYPE_STRING:
        return texts(own)
    if field.type == FieldDescriptor.TYPE_ENUM and field.enum_type is not None:
        return st.sampled_from([*field.enum_type.values_by_number, 77])
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=4)
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return numbers(own, 0.0) | st.sampled_from([float("nan"), float("inf"), -0.0, 0.5])
    if field.cpp_type in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64):
        return numbers(own, 1)
    return numbers(own, 0)


def counts(rules: Any, least: str, most: str) -> st.SearchStrategy[int]:
    limits = [getattr(rules, name) for name in (least, most)] if rules is not None else []
    return st.sampled_from([0, 1, 2, *(max(0, limit + by) for limit in limits if limit <= 100 for by in (-1, 0, 1))])


@st.composite
def messages(draw: Any, descriptor: Descriptor) -> Message:
    message = GetMessageClass(descriptor)()
    if descriptor.full_name.startswith("google.protobuf."):
        if isinstance(message, struct_pb2.Struct):
            message.update({"a": 1, "b": [None, "c"]})
        return message
    for field in descriptor.fields:
        if draw(st.integers(0, 4)) == 0 and field.containing_oneof is None:
            continue
        rules = field.GetOptions().Extensions[validate_pb2.field]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = (field.message_type.fields_by_name[side] for side in ("key", "value"))
            for number in range(draw(counts(rules.map, "min_pairs", "max_pairs"))):
                item = draw(values(key, rules.map.keys))
                item = f"{item[:60]}{number}" if isinstance(item, str) and number else item
                if value.message_type is None:
                    getattr(message, field.name)[item] = draw(values(value, rules.map.values))
        elif field.is_repeated:
            one = values(field, rules.repeated.items)
            many = draw(counts(rules.repeated, "min_items", "max_items"))
            items = draw(st.lists(one, max_size=3, min_size=min(many, 1)))
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

    @settings(max_examples=25, deadline=None)
    @given(messages(descriptor))
    def holds(message: Message) -> None:
        found = validator.collect_violations(message)
        if obeys is not None:
            # The other way round is no duty of the quick test, but without it nothing would be gained.
            assert bool(obeys(message)) is not bool(found), (message, found)

    holds()


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
