"""By a ticket or a cookie a browser comes to the events of one task, and by neither to anything else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import grpc
import httpx
import pytest
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc

from services.common.grpcx.principal import CLAIMS_KEY, claims_principal
from tests.integration.gateway.conftest import Gateway, error, token


def ticket(**changes: object) -> str:
    """As identity makes it."""
    return token(**{"aud": "guildmesh-watch", "roles": [], "task": "metadata"} | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("query", "cookie"), [(True, False), (False, True), (True, True)], ids=["ticket", "cookie", "ticket and cookie"]
)
def test_the_stream_of_a_task_opens_and_the_service_sees_neither(anonymous: httpx.Client, query: bool, cookie: bool) -> None:
    text = ticket()
    response = anonymous.get(
        "/v1/tasks/metadata/events",
        params={"ticket": text, "last_event_id": "3"} if query else {},
        headers={"cookie": f"other=1; guildmesh_watch={text}"} if cookie else {},
    )
    assert response.status_code == 200, response.text
    arrived = json.loads(response.text)
    principal = claims_principal(arrived.pop(CLAIMS_KEY))
    assert principal is not None
    assert (principal.subject, principal.tenant_id, principal.watches) == ("ada", "acme", "metadata")
    assert "cookie" not in arrived
    arrived.pop("x-envoy-original-path")
    assert text not in json.dumps(arrived)


def test_a_ticket_goes_with_the_place_to_resume(anonymous: httpx.Client) -> None:
    response = anonymous.get("/v1/tasks/x/events", params={"ticket": ticket()}, headers={"last-event-id": "17"})
    assert response.text == "id: 1\ndata: 17\n\nevent: end\ndata: {}\n\n"


BAD: dict[str, Callable[[], str]] = {
    "expired": lambda: ticket(exp=int(time.time()) - 10),
    "a token": token,
    "another secret": lambda: ticket(secret="another secret of at least thirty-two bytes"),
    "nonsense": lambda: "x",
    "empty": lambda: "",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_ticket_opens_nothing(anonymous: httpx.Client, name: str) -> None:
    for options in ({"params": {"ticket": BAD[name]()}}, {"headers": {"cookie": f"guildmesh_watch={BAD[name]()}"}}):
        response = anonymous.get("/v1/tasks/x/events", **options)  # type: ignore[arg-type]
        assert "POST /v1/watch-tickets" in error(response, 401, "UNAUTHENTICATED")["message"]


@pytest.mark.parametrize("path", ["/v1/tasks/x", "/v1/tasks/x:watch", "/v1/events", "/v1/tasks", "/v1/users"])
def test_a_ticket_opens_no_other_path(anonymous: httpx.Client, path: str) -> None:
    for options in ({"params": {"ticket": ticket()}}, {"headers": {"cookie": f"guildmesh_watch={ticket()}"}}):
        error(anonymous.get(path, **options), 401, "UNAUTHENTICATED")  # type: ignore[arg-type]


def test_a_ticket_is_no_token(gateway: Gateway, anonymous: httpx.Client) -> None:
    headers = {"authorization": f"Bearer {ticket()}"}
    for path in ("/v1/tasks/x", "/v1/tasks/x/events"):
        error(anonymous.get(path, headers=headers), 401, "UNAUTHENTICATED")
    with gateway.channel() as channel:
        stub = pb_grpc.SchedulerServiceStub(channel)
        for sent in (headers, {"cookie": f"guildmesh_watch={ticket()}"}):
            with pytest.raises(grpc.RpcError) as refused:
                list(stub.StreamTaskEvents(pb.StreamTaskEventsRequest(task_id="x"), metadata=tuple(sent.items())))
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_who_has_a_token_needs_no_ticket_and_may_have_one(rest: httpx.Client) -> None:
    assert rest.get("/v1/tasks/x/events").status_code == 200
    assert rest.get("/v1/tasks/x/events", params={"ticket": ticket()}).status_code == 200
