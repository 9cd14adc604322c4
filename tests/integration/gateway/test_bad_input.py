"""Bad input over REST: the right HTTP status, and a JSON status that says what to do."""

from __future__ import annotations

import json
import socket

import httpx
import pytest

from tests.integration.gateway.conftest import Gateway, error, token

JSON = {"content-type": "application/json"}


def post(rest: httpx.Client, body: str | bytes) -> httpx.Response:
    return rest.post("/task", content=body, headers=JSON)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('{"task":"hi"', "Unexpected end"),
        ('{"task":}', "Unexpected token"),
        ("not json", "Unexpected token"),
        ('{"task":"hi"} more', "end of input"),
        ("[1]", "Root element must be a message"),
        ('{"task":5}', "task: invalid value 5"),
        ('{"task":"x","priority":"high"}', 'priority: invalid value "high"'),
        ('{"task":"x","priority":5.5}', "priority: invalid value 5.5"),
        ('{"task":"x","priority":99999999999}', "priority: invalid value"),
        ('{"task":"x","context":"text"}', "context: invalid value"),
        ('{"task":"x","context":{"a":NaN}}', "Unexpected token"),
        ('{"task":"x","context":{"a":1e999}}', "double"),
        ('{"task":"a\\ud800b"}', "surrogate"),
        ('{"task":"a","context":{"k":"\\ud800"}}', "surrogate"),
        ('{"task":"a","context":{"\\udc00":1}}', "unicode"),
        (b'{"task":"a\xff\xfeb"}', "UTF-8"),
        ('{"task":"x","context":{"a":' + "[" * 10_000 + "]" * 10_000 + "}}", "too deep"),
        ('{"task":"x","context":' + '{"a":' * 10_000 + "1" + "}" * 10_000 + "}", "too deep"),
    ],
)
def test_a_body_that_is_no_request_is_refused_and_the_place_is_named(rest: httpx.Client, body: str | bytes, says: str) -> None:
    assert says in error(post(rest, body), 400, "MALFORMED_REQUEST")["message"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"task": ""}, "task"),
        ({}, "task"),
        ({"task": "<b></b>"}, "task"),
        ({"task": "x" * 10_001}, "task"),
        ({"task": "x", "priority": 11}, "priority"),
        ({"task": "x", "priority": 0}, "priority"),
        ({"task": "x", "timeout": 9}, "timeout"),
        ({"task": "x", "timeout": 3601}, "timeout"),
        ({"task": "a\0b"}, "task"),
        ({"task": "x", "context": {"k": "\0"}}, "context"),
    ],
)
def test_a_field_that_breaks_its_rule_is_named(rest: httpx.Client, fields: dict[str, object], field: str) -> None:
    body = error(post(rest, json.dumps(fields)), 400, "INVALID_ARGUMENT")
    assert field in body["message"]
    assert any(item["@type"].endswith("BadRequest") for item in body["details"])


def test_nesting_that_only_the_service_can_judge_is_refused_too(rest: httpx.Client) -> None:
    body = error(post(rest, '{"task":"x","context":{"a":' + "[" * 90 + "]" * 90 + "}}"), 400, "MALFORMED_REQUEST")
    assert "100 levels" in body["message"]


def test_text_of_exactly_the_limit_passes(rest: httpx.Client) -> None:
    assert post(rest, json.dumps({"task": "x" * 10_000})).json()["task_id"] == "x" * 10_000


def test_characters_that_html_and_json_treat_specially_arrive_unchanged(rest: httpx.Client) -> None:
    text = 'if a < b and c > d & "q" \\ \U0001f600'
    assert post(rest, json.dumps({"task": text})).json()["task_id"] == text


def context_of(size: int) -> dict[str, str]:
    """An object of `size` bytes as compact JSON."""
    return {"k": "x" * (size - len('{"k":""}'))}


def test_a_context_of_exactly_one_mebibyte_passes_and_one_byte_more_does_not(rest: httpx.Client) -> None:
    assert post(rest, json.dumps({"task": "x", "context": context_of(1_048_576)})).status_code == 200
    body = error(post(rest, json.dumps({"task": "x", "context": context_of(1_048_577)})), 400, "INVALID_ARGUMENT")
    assert "context" in body["message"]


def test_a_context_of_one_mebibyte_passes_however_its_characters_are_written(rest: httpx.Client) -> None:
    letters = "é" * ((1_048_576 - len('{"k":""}')) // 2)
    escaped = json.dumps({"task": "x", "context": {"k": letters}})
    assert len(escaped) > 3_000_000
    assert post(rest, escaped).status_code == 200


def test_a_body_above_eight_mebibytes_is_too_large(rest: httpx.Client) -> None:
    response = post(rest, json.dumps({"task": "x", "context": context_of(9_000_000)}))
    assert "8 MiB" in error(response, 413, "REQUEST_TOO_LARGE")["message"]


def test_a_chunked_body_is_read(rest: httpx.Client) -> None:
    response = rest.post("/task", content=iter([b'{"task":', b'"hi"}']), headers=JSON)
    assert response.json()["task_id"] == "hi"


@pytest.mark.parametrize("path", ["/nothing", "/v2/tasks", "/task/", "/guildmesh.scheduler.v1.SchedulerService/SubmitTask"])
def test_an_unknown_path_is_not_found_with_and_without_a_token(rest: httpx.Client, anonymous: httpx.Client, path: str) -> None:
    for client in (rest, anonymous):
        body = error(client.get(path), 404, "PATH_NOT_FOUND")
        assert body["details"][0]["metadata"]["path"] == path


@pytest.mark.parametrize(
    ("verb", "path", "allowed"), [("GET", "/task", "POST"), ("DELETE", "/v1/tasks/x", "GET"), ("PUT", "/v1/tasks", "GET, POST")]
)
def test_a_wrong_method_is_told_the_right_ones(rest: httpx.Client, verb: str, path: str, allowed: str) -> None:
    response = rest.request(verb, path)
    error(response, 405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == allowed


def test_an_unknown_query_parameter_is_refused(rest: httpx.Client) -> None:
    assert '"foo"' in error(rest.get("/v1/tasks?foo=1"), 400, "MALFORMED_REQUEST")["message"]


def test_an_unknown_id_is_not_found_as_the_service_says_it(rest: httpx.Client) -> None:
    body = error(rest.get("/v1/tasks/unknown"), 404, "TASK_NOT_FOUND")
    assert body["code"] == 5
    assert body["details"][0]["metadata"] == {"task_id": "unknown"}


@pytest.mark.parametrize("task_id", ["unknown%2Fx", "unknown%20x", "unknown%00", "unknown%ff", "unknown..", "unknown%C3%A9"])
def test_an_odd_id_is_an_error_of_the_caller(rest: httpx.Client, task_id: str) -> None:
    response = rest.get(f"/v1/tasks/{task_id}")
    assert response.status_code in (400, 404), response.text
    assert response.json()["message"]


def test_a_limit_says_when_to_come_back(rest: httpx.Client) -> None:
    response = rest.get("/v1/tasks")
    error(response, 429, "TOO_MANY_TASKS")
    assert response.headers["retry-after"] == "7"


def test_headers_that_are_too_large_or_too_many_are_refused(rest: httpx.Client) -> None:
    for headers in ([("x-a", "y" * 20_000)], [("x-a", "y")] * 150):
        assert rest.get("/health", headers=headers).json()["details"][0]["reason"] == "HEADERS_TOO_LARGE"


def test_a_service_that_is_away_is_unavailable_and_named(rest: httpx.Client) -> None:
    response = rest.post("/chat", json={"message": "hello"})
    body = error(response, 503, "DEPENDENCY_UNAVAILABLE")
    assert body["details"][0]["metadata"] == {"dependency": "agent"}
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ('{"task":"y","task":"x"}', '{"task":"x"}'),
        ('{"task":"x","Priority":3}', '{"task":"x"}'),
        ('{"task":"x","nothing":3}', '{"task":"x"}'),
        ('{"task":"x","priority":null,"context":null}', '{"task":"x"}'),
        ('{"task":"x","priority":"3"}', '{"task":"x","priority":3}'),
    ],
)
def test_a_key_that_comes_twice_or_in_another_case_says_nothing_else_than_the_message(
    rest: httpx.Client, one: str, two: str
) -> None:
    assert post(rest, one).json() == post(rest, two).json()


def test_a_field_by_both_of_its_names_is_refused_and_by_either_understood(rest: httpx.Client) -> None:
    def create(**fields: int) -> httpx.Response:
        return rest.post("/v1/tasks", json={"description": "x", **fields})

    assert create(maxAttempts=3).json()["max_attempts"] == create(max_attempts=3).json()["max_attempts"] == 3
    error(create(maxAttempts=3, max_attempts=4), 400, "MALFORMED_REQUEST")


@pytest.mark.parametrize(
    "head",
    [
        "GET /health HTTP/1.1\r\n\r\n",
        "GET /he\x01alth HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
        "NONSENSE\r\n\r\n",
    ],
)
def test_what_is_no_http_ends_with_an_answer_and_the_gateway_goes_on(gateway: Gateway, head: str) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 4")
    with gateway.rest() as client:
        assert client.get("/health").json() == {"status": "healthy"}


def test_a_token_too_many_is_no_token(gateway: Gateway) -> None:
    with httpx.Client(base_url=gateway.url) as client:
        twice = [("authorization", f"Bearer {token()}"), ("authorization", f"Bearer {token(sub='mallory')}")]
        error(client.get("/v1/tasks/x", headers=twice), 401, "UNAUTHENTICATED")
