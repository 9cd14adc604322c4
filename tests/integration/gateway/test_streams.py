"""Streams, traces, CORS and restarts through the gateway."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import pytest
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb
from guildmesh.scheduler.v1 import worker_service_pb2_grpc as worker_grpc

from tests.integration.gateway.conftest import Gateway, token

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def credentials() -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token()}"),)


def test_server_sent_events_pass_at_once_and_unchanged(rest: httpx.Client) -> None:
    with rest.stream("GET", "/v1/tasks/endless/events") as response:
        assert response.headers["content-type"] == "text/event-stream"
        # The stream goes on; what was written is here all the same.
        assert next(response.iter_text()) == "id: 1\ndata: \n\n"


@pytest.mark.parametrize(
    ("path", "header", "seen"),
    [
        ("/v1/tasks/x/events", "17", "17"),
        ("/v1/tasks/x/events?last_event_id=3", None, "3"),
        ("/v1/tasks/x/events?last_event_id=3", "17", "17"),
    ],
)
def test_a_stream_resumes_by_header_or_parameter(rest: httpx.Client, path: str, header: str | None, seen: str) -> None:
    response = rest.get(path, headers={"last-event-id": header} if header else {})
    assert response.text == f"id: 1\ndata: {seen}\n\nevent: end\ndata: {{}}\n\n"


def test_a_resume_header_cannot_smuggle_another_parameter(rest: httpx.Client) -> None:
    response = rest.get("/v1/tasks/x/events", headers={"last-event-id": "1&task_id=y"})
    assert response.status_code == 400
    assert "last_event_id" in response.json()["message"]


def test_a_watch_is_one_json_object_a_line(rest: httpx.Client) -> None:
    response = rest.get("/v1/tasks/x:watch?after_event_number=1")
    assert [json.loads(line)["number"] for line in response.text.splitlines()] == [2, 3]


def test_grpc_streams_in_both_directions(channel: grpc.Channel) -> None:
    events = pb_grpc.SchedulerServiceStub(channel).WatchTask(pb.WatchTaskRequest(task_id="x"), metadata=credentials())
    assert [event.number for event in events] == [1, 2, 3]
    asked = threading.Event()

    def requests() -> Iterator[worker_pb.WorkRequest]:
        yield worker_pb.WorkRequest(credits=1)
        assert asked.wait(10)
        yield worker_pb.WorkRequest(credits=2)

    answers = worker_grpc.WorkerServiceStub(channel).Work(requests(), metadata=credentials())
    assert next(answers).acks[0].task_id == "1"
    asked.set()
    assert [answer.acks[0].task_id for answer in answers] == ["2"]


def test_a_grpc_clients_deadline_holds(channel: grpc.Channel) -> None:
    call = pb_grpc.SchedulerServiceStub(channel).WatchTask(
        pb.WatchTaskRequest(task_id="endless"), metadata=credentials(), timeout=0.5
    )
    begun = time.monotonic()
    with pytest.raises(grpc.RpcError) as late:
        list(call)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begun < 5


def test_every_answer_names_its_trace_and_the_service_gets_the_same(rest: httpx.Client, anonymous: httpx.Client) -> None:
    response = rest.get("/v1/tasks/x")
    version, trace, parent, flags = response.json()["labels"]["traceparent"].split("-")
    assert response.headers["x-trace-id"] == trace
    assert re.fullmatch(r"[0-9a-f]{32}", trace)
    assert (version, len(parent), flags) == ("00", 16, "01")
    traces = {
        client.get(path).headers["x-trace-id"] for client in (rest, anonymous) for path in ("/health", "/nothing", "/v1/tasks/x")
    }
    assert len(traces) == 6


def test_a_clients_own_trace_goes_on(rest: httpx.Client) -> None:
    response = rest.get("/v1/tasks/x", headers={"traceparent": TRACEPARENT, "tracestate": "a=1"})
    assert response.headers["x-trace-id"] == TRACEPARENT.split("-")[1]
    assert response.json()["labels"]["traceparent"] == TRACEPARENT
    assert response.json()["labels"]["tracestate"] == "a=1"


@pytest.mark.parametrize(
    "value",
    [
        "x",
        TRACEPARENT.upper(),
        TRACEPARENT + "-1",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        TRACEPARENT.replace("00f067aa0ba902b7", "0" * 16),
    ],
)
def test_a_trace_that_is_none_is_replaced(rest: httpx.Client, value: str) -> None:
    seen = rest.get("/v1/tasks/x", headers={"traceparent": value, "tracestate": "a=1"}).json()["labels"]
    assert seen["traceparent"] != value
    assert "tracestate" not in seen


def test_the_request_id_is_the_gateways_own(rest: httpx.Client) -> None:
    response = rest.get("/v1/tasks/x", headers={"x-request-id": "mine"})
    assert response.headers["x-request-id"] == response.json()["labels"]["x-request-id"] != "mine"


def test_a_browser_of_a_known_origin_may_call_and_another_may_not(anonymous: httpx.Client) -> None:
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    known = anonymous.options("/task", headers=ask | {"origin": "https://app.example"})
    assert known.status_code == 200
    assert known.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in known.headers["access-control-allow-headers"]
    other = anonymous.options("/task", headers=ask | {"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    answer = anonymous.get("/health", headers={"origin": "https://app.example"})
    assert "x-trace-id" in answer.headers["access-control-expose-headers"]


def test_binary_metadata_that_is_not_base64_harms_nobody_on_the_same_connections(gateway: Gateway, rest: httpx.Client) -> None:
    with gateway.rest() as bystander:
        for _ in range(20):
            for name in ("grpc-trace-bin", "x-attack-bin", "grpc-tags-bin"):
                assert rest.get("/v1/tasks/x", headers={name: "!!! not base64"}).status_code == 200
            assert bystander.get("/v1/tasks/x").status_code == 200


def test_headers_that_once_ended_grpc_processes_are_survived(rest: httpx.Client) -> None:
    for headers in ({"te": "x" * 8192}, {"te": "x"}, {"grpc-timeout": "x"}, {"grpc-encoding": "bogus"}):
        rest.get("/v1/tasks/x", headers=headers)
        assert rest.get("/v1/tasks/x").status_code == 200


@pytest.mark.parametrize("name", ["grpc-timeout", "grpc-previous-rpc-attempts", "grpc-retry-pushback-ms"])
def test_a_header_that_grpc_cannot_parse_harms_nobody_on_the_same_connections(
    rest: httpx.Client, channel: grpc.Channel, name: str
) -> None:
    stub = pb_grpc.SchedulerServiceStub(channel)
    for value in ("x", "-1", "1", "99999999999999999999m", "1m,2m", "\u00e9".encode().decode("latin-1")):
        for _ in range(5):
            assert rest.get("/v1/tasks/x", headers={name: value.encode("latin-1")}).status_code == 200  # type: ignore[dict-item]
        for timeout in (0.9, 1.5, 30):
            assert stub.GetTask(pb.GetTaskRequest(task_id="x"), metadata=credentials(), timeout=timeout).task_id == "x"


def test_a_service_that_restarts_is_used_again_at_once(gateway: Gateway, rest: httpx.Client) -> None:
    assert rest.get("/v1/tasks/x").status_code == 200
    gateway.echo.kill()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(rest.get, "/v1/tasks/x")
        # In this thread: the kernel ends the child when the thread that started it ends.
        gateway.echo.start()
        down = asked.result()
    # Either it came back within the gateway's retries, or the answer said to come again.
    assert down.status_code in (200, 503)
    assert rest.get("/v1/tasks/x").status_code == 200
