"""Every RPC of IdentityService, over mutual TLS and a real database."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
import jwt
import pytest
from guildmesh.identity.v1 import identity_service_pb2 as pb
from guildmesh.identity.v1 import identity_service_pb2_grpc as pb_grpc
from guildmesh.identity.v1 import user_pb2
from pydantic import SecretStr

from services.common.context import Principal
from services.common.grpcx.status import error_info
from services.identity.bootstrap import open_service
from services.identity.settings import ServingSettings
from tests.integration.identity.conftest import OPERATOR, Identity
from tests.support.service import metadata, running


def a_name() -> str:
    return f"u{uuid.uuid4().hex[:12]}"


async def test_a_created_user_logs_in_and_the_token_verifies_with_the_key_set(identity: Identity) -> None:
    admin, name = await identity.admin(), a_name()
    user = await identity.stub.CreateUser(
        pb.CreateUserRequest(username=name, password="pw", email="ada@example.com", roles=["user", "admin"]),
        metadata=metadata(admin),
    )
    assert (user.tenant_id, list(user.roles), user.active) == (admin.tenant_id, ["user", "admin"], True)
    assert user.create_time.seconds > 0

    answer = await identity.stub.IssueToken(pb.IssueTokenRequest(username=name, password="pw"))
    assert (answer.token_type, answer.expires_in) == ("bearer", 1800)
    async with httpx.AsyncClient() as client:
        response = await client.get(f"http://127.0.0.1:{identity.server.running.admin_port}/.well-known/jwks.json")
    assert response.headers["content-type"] == "application/json"
    keys = response.json()["keys"]
    by_rpc = await identity.stub.GetJsonWebKeySet(pb.GetJsonWebKeySetRequest())
    assert [key["kid"] for key in keys] == [key.kid for key in by_rpc.keys]
    key_id = jwt.get_unverified_header(answer.access_token)["kid"]
    assert key_id == keys[0]["kid"]
    claims = jwt.decode(
        answer.access_token,
        jwt.PyJWK.from_json(json.dumps(keys[0])),
        algorithms=["ES256"],
        audience="guildmesh",
        issuer="guildmesh",
    )
    assert (claims["sub"], claims["tenant"], claims["roles"]) == (name, admin.tenant_id, ["user", "admin"])


async def test_a_wrong_password_and_an_unknown_user_answer_the_same(identity: Identity) -> None:
    admin, name = await identity.admin(), a_name()
    await identity.stub.CreateUser(pb.CreateUserRequest(username=name, password="pw"), metadata=metadata(admin))
    answers = []
    for username, password in ((name, "wrong"), (a_name(), "pw"), (name.upper(), "pw")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await identity.stub.IssueToken(pb.IssueTokenRequest(username=username, password=password))
        answers.append((caught.value.code(), caught.value.details(), error_info(caught.value)))
    assert (
        answers == [(grpc.StatusCode.UNAUTHENTICATED, "The username or the password is wrong.", ("INVALID_CREDENTIALS", {}))] * 3
    )


async def test_a_username_is_unique_in_the_whole_mesh_even_for_who_cannot_see_it(identity: Identity) -> None:
    one, other, name = await identity.admin(), await identity.admin(), a_name()
    await identity.stub.CreateUser(pb.CreateUserRequest(username=name, password="pw"), metadata=metadata(one))
    for taken in (name, name.upper()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await identity.stub.CreateUser(pb.CreateUserRequest(username=taken, password="pw"), metadata=metadata(other))
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
        assert error_info(caught.value) == ("USER_ALREADY_EXISTS", {"username": taken})


async def test_of_many_who_want_one_name_at_once_one_gets_it(identity: Identity) -> None:
    admin, name = await identity.admin(), a_name()
    outcomes = await asyncio.gather(
        *(
            identity.stub.CreateUser(pb.CreateUserRequest(username=name, password="pw"), metadata=metadata(admin))
            for _ in range(5)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, user_pb2.User) for outcome in outcomes) == 1


async def test_only_an_operator_reaches_into_another_tenant(identity: Identity) -> None:
    admin, other = await identity.admin(), await identity.tenant()
    for request in (
        pb.CreateUserRequest(username=a_name(), password="pw", tenant_id=other),
        pb.CreateUserRequest(username=a_name(), password="pw", roles=["operator"]),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await identity.stub.CreateUser(request, metadata=metadata(admin))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert error_info(caught.value)[0] == "ROLE_REQUIRED"
        await identity.stub.CreateUser(request, metadata=metadata(OPERATOR)) if request.tenant_id else None


async def test_a_user_of_an_unknown_tenant_is_refused(identity: Identity) -> None:
    request = pb.CreateUserRequest(username=a_name(), password="pw", tenant_id="no-such-tenant")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await identity.stub.CreateUser(request, metadata=metadata(OPERATOR))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert error_info(caught.value) == ("TENANT_NOT_FOUND", {"tenant_id": "no-such-tenant"})


async def test_users_are_seen_in_their_own_tenant_only(identity: Identity) -> None:
    one, other, name = await identity.admin(), await identity.admin(), a_name()
    await identity.stub.CreateUser(pb.CreateUserRequest(username=name, password="pw"), metadata=metadata(one))
    found = await identity.stub.GetUser(pb.GetUserRequest(username=name), metadata=metadata(one))
    assert found.username == name
    with pytest.raises(grpc.aio.AioRpcError) as hidden:
        await identity.stub.GetUser(pb.GetUserRequest(username=name), metadata=metadata(other))
    with pytest.raises(grpc.aio.AioRpcError) as absent:
        await identity.stub.GetUser(pb.GetUserRequest(username=f"{name}x"), metadata=metadata(other))
    assert hidden.value.code() is absent.value.code() is grpc.StatusCode.NOT_FOUND
    assert error_info(hidden.value) == ("USER_NOT_FOUND", {"username": name})
    listed = await identity.stub.ListUsers(pb.ListUsersRequest(), metadata=metadata(other))
    assert not listed.users


async def test_users_are_listed_by_name_page_by_page(identity: Identity) -> None:
    admin = await identity.admin()
    names = sorted(a_name() for _ in range(5))
    for name in reversed(names):
        await identity.stub.CreateUser(pb.CreateUserRequest(username=name, password="pw"), metadata=metadata(admin))
    seen, token = [], ""
    while True:
        page = await identity.stub.ListUsers(pb.ListUsersRequest(page_size=2, page_token=token), metadata=metadata(admin))
        seen += [user.username for user in page.users]
        token = page.next_page_token
        if not token:
            break
    assert seen == names
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await identity.stub.ListUsers(pb.ListUsersRequest(page_token="bm8"), metadata=metadata(admin))
    assert error_info(caught.value)[0] == "INVALID_PAGE_TOKEN"


async def test_an_operator_creates_and_lists_tenants(identity: Identity) -> None:
    tenant_id = f"t{uuid.uuid4().hex[:12]}"
    request = pb.CreateTenantRequest(tenant=user_pb2.Tenant(tenant_id=tenant_id, display_name="Acme"))
    created = await identity.stub.CreateTenant(request, metadata=metadata(OPERATOR))
    assert (created.tenant_id, created.display_name) == (tenant_id, "Acme")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await identity.stub.CreateTenant(request, metadata=metadata(OPERATOR))
    assert error_info(caught.value) == ("TENANT_ALREADY_EXISTS", {"tenant_id": tenant_id})
    listed, token = [], ""
    while True:
        page = await identity.stub.ListTenants(pb.ListTenantsRequest(page_size=1, page_token=token), metadata=metadata(OPERATOR))
        listed += [tenant.tenant_id for tenant in page.tenants]
        token = page.next_page_token
        if not token:
            break
    assert tenant_id in listed
    assert listed == sorted(listed)
    admin = Principal("chief", tenant_id, frozenset({"admin"}))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await identity.stub.ListTenants(pb.ListTenantsRequest(), metadata=metadata(admin))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_shared_secret_signs_with_hs256_and_publishes_nothing(
    make_settings: Callable[..., ServingSettings], identity_tls: Path
) -> None:
    secret = "a shared secret of thirty-two bytes or more"
    async with running(open_service, make_settings(jwt_secret_key=SecretStr(secret)), identity_tls) as server:
        identity = Identity(server, pb_grpc.IdentityServiceStub(server.channel()))
        admin, name = await identity.admin(), a_name()
        await identity.stub.CreateUser(pb.CreateUserRequest(username=name, password="pw"), metadata=metadata(admin))
        answer = await identity.stub.IssueToken(pb.IssueTokenRequest(username=name, password="pw"))
        keys = await identity.stub.GetJsonWebKeySet(pb.GetJsonWebKeySetRequest())
    assert not keys.keys
    assert jwt.decode(answer.access_token, secret, algorithms=["HS256"], audience="guildmesh")["sub"] == name


async def test_production_refuses_a_short_password(make_settings: Callable[..., ServingSettings], identity_tls: Path) -> None:
    async with running(open_service, make_settings(profile="production"), identity_tls) as server:
        identity = Identity(server, pb_grpc.IdentityServiceStub(server.channel()))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await identity.stub.CreateUser(
                pb.CreateUserRequest(username=a_name(), password="short"), metadata=metadata(await identity.admin())
            )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(caught.value) == ("PASSWORD_TOO_WEAK", {"min_length": "12"})


async def test_two_replicas_sign_with_one_key(make_settings: Callable[..., ServingSettings], identity_tls: Path) -> None:
    kids = []
    for _ in range(2):
        async with running(open_service, make_settings(), identity_tls) as server:
            stub = pb_grpc.IdentityServiceStub(server.channel())
            kids.append([key.kid for key in (await stub.GetJsonWebKeySet(pb.GetJsonWebKeySetRequest())).keys])
    assert kids[0] == kids[1] != []
