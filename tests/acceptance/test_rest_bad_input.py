"""Bad input by REST and gRPC on the whole mesh: the right code, and a status that says what to do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import grpc
import httpx
import jwt
import pytest
from google.protobuf.struct_pb2 import Struct, Value
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import task_pb2

from services.common.grpcx.status import error_info
from tests.support.mesh import RunningMesh

pytestmark = pytest.mark.acceptance
LIMIT = 1_048_576


Metadata = tuple[tuple[str, str], ...]


@pytest.fixture(scope="module")
def bearer(mesh: RunningMesh) -> Metadata:
    return (("authorization", f"Bearer {mesh.token()}"),)


@pytest.fixture
def client(mesh: RunningMesh, bearer: Metadata) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=mesh.url, headers=dict(bearer), timeout=60) as client:
        yield client


@pytest.fixture
def stub(mesh: RunningMesh) -> Iterator[pb_grpc.SchedulerServiceStub]:
    options = [("grpc.max_receive_message_length", 16 * LIMIT)]
    with grpc.insecure_channel(mesh.grpc_target, options=options) as channel:
        yield pb_grpc.SchedulerServiceStub(channel)


def check(response: httpx.Response, status: HTTPStatus, reason: str) -> None:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"code", "message", "details"}
    assert body["message"]
    assert [item["reason"] for item in body["details"] if "reason" in item] == [reason]
    assert response.headers["x-trace-id"]


def context_of(size: int) -> dict[str, str]:
    """An object of `size` bytes as compact JSON."""
    return {"k": "x" * (size - len('{"k":""}'))}


FIELDS: dict[str, dict[str, Any]] = {
    "an empty task": {"task": ""},
    "only tags": {"task": "<p></p>"},
    "10,001 characters": {"task": "x" * 10_001},
    "a context of 1 MiB + 1": {"task": "x", "context": context_of(LIMIT + 1)},
    "priority 11": {"task": "x", "priority": 11},
    "timeout 9": {"task": "x", "timeout": 9},
    "NUL": {"task": "a\0b"},
    "NUL in the context": {"task": "x", "context": {"k": ["\0"]}},
}


@pytest.mark.parametrize("case", FIELDS)
def test_a_field_that_breaks_its_rule_is_refused_by_rest_and_grpc_alike(
    client: httpx.Client, stub: pb_grpc.SchedulerServiceStub, bearer: Metadata, case: str
) -> None:
    fields = FIELDS[case]
    check(client.post("/task", json=fields), HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT")
    context = Struct()
    context.update(fields.get("context", {}))
    request = pb.SubmitTaskRequest(**{**fields, "context": context})
    with pytest.raises(grpc.RpcError) as refused:
        stub.SubmitTask(request, metadata=bearer)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(refused.value)[0] == "INVALID_ARGUMENT"


BODIES = {
    "a lone surrogate": '{"task":"a\\ud800b"}',
    "10,000 levels": '{"task":"x","context":{"a":' + "[" * 10_000 + "]" * 10_000 + "}}",
    "90 levels": '{"task":"x","context":{"a":' + "[" * 90 + "]" * 90 + "}}",
    "broken JSON": '{"task":',
    "a number for the text": '{"task":5}',
    "a text for the number": '{"task":"x","priority":"high"}',
    "a list for the object": '{"task":"x","context":[]}',
    "invalid UTF-8": b'{"task":"\xff"}',
}


@pytest.mark.parametrize("case", BODIES)
def test_a_body_that_cannot_be_read_is_refused(client: httpx.Client, case: str) -> None:
    response = client.post("/task", content=BODIES[case], headers={"content-type": "application/json"})
    check(response, HTTPStatus.BAD_REQUEST, "MALFORMED_REQUEST")


def test_10_000_levels_of_protobuf_are_refused(mesh: RunningMesh, bearer: Metadata) -> None:
    """A message that no library would make: lists in lists, written by hand from the inside out."""
    value = Value(number_value=1).SerializeToString()
    for _ in range(10_000):
        listed = b"\x0a" + _varint(len(value)) + value
        value = b"\x32" + _varint(len(listed)) + listed
    entry = b"\x0a\x01k\x12" + _varint(len(value)) + value
    struct = b"\x0a" + _varint(len(entry)) + entry
    request = b"\x0a\x01x\x12" + _varint(len(struct)) + struct
    with grpc.insecure_channel(mesh.grpc_target) as channel:
        call = channel.unary_unary("/guildmesh.scheduler.v1.SchedulerService/SubmitTask")
        begun = time.monotonic()
        with pytest.raises(grpc.RpcError) as refused:
            call(request, metadata=bearer, timeout=10)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(refused.value)[0] == "MALFORMED_REQUEST"
    assert time.monotonic() - begun < 5


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def test_a_context_of_exactly_one_mebibyte_passes_by_rest_and_grpc(
    client: httpx.Client, stub: pb_grpc.SchedulerServiceStub, bearer: Metadata
) -> None:
    context = context_of(LIMIT)
    assert len(json.dumps(context, separators=(",", ":"))) == LIMIT
    task = {"description": "large", "kind": "tests.nobody-runs-this", "context": context}
    created = client.post("/v1/tasks", json=task)
    assert created.status_code == HTTPStatus.OK, created.text
    read = client.get(f"/v1/tasks/{created.json()['task_id']}")
    assert read.json()["context"] == context
    struct = Struct()
    struct.update(context)
    request = pb.CreateTaskRequest(task=task_pb2.Task(description="large", kind="tests.nobody-runs-this", context=struct))
    made = stub.CreateTask(request, metadata=bearer)
    for task_id in (made.task_id, created.json()["task_id"]):
        stub.CancelTask(pb.CancelTaskRequest(task_id=task_id), metadata=bearer)


def test_unknown_paths_methods_and_ids(client: httpx.Client) -> None:
    check(client.get("/v1/nothing"), HTTPStatus.NOT_FOUND, "PATH_NOT_FOUND")
    wrong = client.delete("/task")
    check(wrong, HTTPStatus.METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED")
    assert wrong.headers["allow"] == "POST"
    check(client.get("/v1/tasks/01990000-0000-7000-8000-000000000000"), HTTPStatus.NOT_FOUND, "TASK_NOT_FOUND")
    check(client.get("/v1/tasks/no-id-at-all"), HTTPStatus.NOT_FOUND, "TASK_NOT_FOUND")


def test_no_token_a_bad_token_and_alg_none(mesh: RunningMesh, stub: pb_grpc.SchedulerServiceStub) -> None:
    claims = {"iss": "guildmesh", "aud": "guildmesh", "sub": "developer", "tenant": "default", "exp": int(time.time()) + 600}
    good = mesh.token()
    tokens = [None, "nonsense", jwt.encode(claims, None, algorithm="none"), jwt.encode(claims, "x" * 32), good[:-8] + "AAAAAAAA"]
    for token in tokens:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        refused = httpx.get(f"{mesh.url}/v1/tasks", headers=headers)
        check(refused, HTTPStatus.UNAUTHORIZED, "UNAUTHENTICATED")
        assert refused.headers["www-authenticate"] == "Bearer"
        with pytest.raises(grpc.RpcError) as failed:
            stub.ListTasks(pb.ListTasksRequest(), metadata=tuple(headers.items()))
        assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert error_info(failed.value)[0] == "UNAUTHENTICATED"
