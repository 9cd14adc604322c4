"""Who may pass, and what the services are told of them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable

import grpc
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc

from services.common.grpcx.status import error_info
from tests.integration.gateway.conftest import SECRET, Gateway, error, token


def parts(**header: object) -> str:
    """A token with a header of our choice and no valid signature."""
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, {"sub": "ada"})]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


# Made when they are used: a token made with the module might expire, or begin, before its turn comes.
BAD: dict[str, Callable[[], str]] = {
    "none": lambda: jwt.encode({"sub": "ada", "exp": int(time.time()) + 600}, None, algorithm="none"),
    "None with a signature": lambda: parts(alg="None"),
    "nOnE with a signature": lambda: parts(alg="nOnE"),
    "an empty algorithm": lambda: parts(alg=""),
    "another secret": lambda: token(secret="another secret of at least thirty-two bytes"),
    "another algorithm of the family": lambda: token(algorithm="HS512"),
    "a key of the caller's own": lambda: jwt.encode({"sub": "ada"}, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256"),
    "expired": lambda: token(exp=int(time.time()) - 10),
    "no end": lambda: token(exp=None),
    "not yet": lambda: token(nbf=int(time.time()) + 100),
    "another issuer": lambda: token(iss="guildmesh.evil"),
    "no issuer": lambda: token(iss=None),
    "another audience": lambda: token(aud=["other"]),
    "a key id that is a path": lambda: token(secret="x" * 32, headers={"kid": "../../dev/null"}),
    "not base64": lambda: "%%%.%%%.%%%",
    "two parts": lambda: "a.b",
    "five parts": lambda: "a.b.c.d.e",
    "blank": lambda: ".",
    "cut": lambda: token()[:-4],
    "longer": lambda: token() + "AAAA",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_token_is_refused_over_rest_and_grpc(gateway: Gateway, anonymous: httpx.Client, name: str) -> None:
    headers = {"authorization": f"Bearer {BAD[name]()}"}
    response = anonymous.get("/v1/tasks/x", headers=headers)
    assert "POST /auth/token" in error(response, 401, "UNAUTHENTICATED")["message"]
    assert response.headers["www-authenticate"] == "Bearer"
    with gateway.channel() as channel, pytest.raises(grpc.RpcError) as refused:
        pb_grpc.SchedulerServiceStub(channel).GetTask(pb.GetTaskRequest(task_id="x"), metadata=tuple(headers.items()))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "POST /auth/token" in refused.value.details()
    assert error_info(refused.value) == ("UNAUTHENTICATED", {})


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic YTpi"}, {"authorization": "Bearer"}, {"authorization": ""}])
def test_no_token_is_refused(anonymous: httpx.Client, headers: dict[str, str]) -> None:
    error(anonymous.get("/v1/tasks/x", headers=headers), 401, "UNAUTHENTICATED")


def test_a_token_in_the_address_is_no_token(anonymous: httpx.Client) -> None:
    error(anonymous.get(f"/v1/tasks/x?access_token={token()}"), 401, "UNAUTHENTICATED")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_a_word_without_case(anonymous: httpx.Client, scheme: str) -> None:
    response = anonymous.get("/v1/tasks/x", headers={"authorization": f"{scheme} {token(sub='grace', tenant='globex')}"})
    assert (response.json()["created_by"], response.json()["tenant_id"]) == ("grace", "globex")


def test_the_service_gets_the_verified_claims_and_never_the_token(rest: httpx.Client) -> None:
    metadata = rest.get("/v1/tasks/x").json()["labels"]
    assert "authorization" not in metadata
    claims = metadata["x-guildmesh-claims"]
    assert json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"] == "ada"


FORGED = base64.urlsafe_b64encode(json.dumps({"sub": "root", "tenant": "default", "roles": ["operator"]}).encode()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        [("x-guildmesh-claims", FORGED)],
        [("X-Guildmesh-Claims", FORGED), ("x-GUILDMESH-claims", FORGED)],
        [("x-guildmesh-claims", f"{FORGED},{FORGED}")],
        [("x-guildmesh-principal", FORGED)],
        [("x_guildmesh_claims", FORGED)],
        [("x-forwarded-user", "root"), ("x-forwarded-client-cert", "By=spiffe://root"), ("x-forwarded-email", "a@b")],
        [("x-envoy-original-path", "/x"), ("x-envoy-internal", "true")],
    ],
)
def test_identity_headers_of_a_client_do_not_arrive(
    rest: httpx.Client, anonymous: httpx.Client, headers: list[tuple[str, str]]
) -> None:
    task = rest.get("/v1/tasks/x", headers=headers).json()
    assert (task["created_by"], task["tenant_id"]) == ("ada", "acme")
    allowed = {"x-guildmesh-claims", "x-forwarded-for", "x-forwarded-proto", "x-envoy-original-path", "x-envoy-original-method"}
    sent = {name for name in task["labels"] if name.startswith(("x-guildmesh", "x_guildmesh", "x-forwarded", "x-envoy"))}
    assert sent <= allowed | {"x-envoy-expected-rq-timeout-ms", "x-envoy-external-address"}
    assert task["labels"].get("x-envoy-original-path", "/v1/tasks/x") == "/v1/tasks/x"
    error(anonymous.get("/v1/tasks/x", headers=headers), 401, "UNAUTHENTICATED")


def test_identity_metadata_of_a_grpc_client_does_not_arrive(channel: grpc.Channel) -> None:
    stub = pb_grpc.SchedulerServiceStub(channel)
    metadata = (
        ("authorization", f"Bearer {token()}"),
        ("x-guildmesh-claims", FORGED),
        ("x-guildmesh-principal", FORGED),
        ("x-guildmesh-principal", FORGED),
    )
    task = stub.GetTask(pb.GetTaskRequest(task_id="x"), metadata=metadata)
    assert task.created_by == "ada"
    assert "x-guildmesh-principal" not in task.labels


def test_what_needs_no_token_asks_for_none(anonymous: httpx.Client) -> None:
    assert anonymous.get("/health").json() == {"status": "healthy"}
    assert anonymous.get("/health", headers={"authorization": "Bearer nonsense"}).status_code == 200


def test_a_token_is_issued_for_json_and_for_a_form(anonymous: httpx.Client) -> None:
    fields = {"username": 'a b"\\ü', "password": "p&=+%\n"}
    answers = [
        anonymous.post("/auth/token", json=fields),
        anonymous.post("/auth/token", data=fields | {"grant_type": "password", "scope": ""}),
    ]
    for answer in answers:
        assert answer.json()["access_token"] == f"{fields['username']}\n{fields['password']}"


@pytest.mark.parametrize("body", ["", "username=a", "&&==&", "username=a&password=", "username=%ff&password=%00"])
def test_a_form_that_lacks_something_is_an_error_of_the_caller(anonymous: httpx.Client, body: str) -> None:
    response = anonymous.post("/auth/token", content=body, headers={"content-type": "application/x-www-form-urlencoded"})
    assert response.status_code == 400
    assert response.json()["message"]


def test_a_wrong_password_is_answered_with_the_challenge(anonymous: httpx.Client) -> None:
    response = anonymous.post("/auth/token", json={"username": "ada", "password": "wrong"})
    error(response, 401, "INVALID_CREDENTIALS")
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_method_that_only_the_mesh_may_call_is_not_there(channel: grpc.Channel) -> None:
    stub = pb_grpc.SchedulerServiceStub(channel)
    with pytest.raises(grpc.RpcError) as refused:
        stub.CountTasks(pb.CountTasksRequest(), metadata=(("authorization", f"Bearer {token()}"),))
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error_info(refused.value) == ("PATH_NOT_FOUND", {})
    assert SECRET not in refused.value.details()
