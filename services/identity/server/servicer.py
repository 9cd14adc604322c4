"""IdentityService on the wire."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
from guildmesh.identity.v1 import identity_service_pb2 as pb
from guildmesh.identity.v1 import identity_service_pb2_grpc as pb_grpc
from guildmesh.identity.v1 import user_pb2

from services.common.context import current_call
from services.identity.server.convert import (
    keys_to_proto,
    new_user_from_proto,
    tenant_to_proto,
    user_to_proto,
    watch_cookie,
)
from services.identity.usecases.create_tenant import CreateTenant
from services.identity.usecases.create_user import CreateUser
from services.identity.usecases.create_watch_ticket import CreateWatchTicket
from services.identity.usecases.erase_user import EraseUser
from services.identity.usecases.get_json_web_key_set import GetJsonWebKeySet
from services.identity.usecases.get_user import GetUser
from services.identity.usecases.issue_token import IssueToken
from services.identity.usecases.list_tenants import ListTenants
from services.identity.usecases.list_users import ListUsers

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the servicer calls."""

    issue_token: IssueToken
    create_watch_ticket: CreateWatchTicket
    get_json_web_key_set: GetJsonWebKeySet
    create_user: CreateUser
    get_user: GetUser
    list_users: ListUsers
    erase_user: EraseUser
    create_tenant: CreateTenant
    list_tenants: ListTenants


class IdentityServicer(pb_grpc.IdentityServiceServicer):
    """Turns messages into calls of use cases and back; the contract documents each method."""

    def __init__(self, use_cases: UseCases, *, secure_cookies: bool) -> None:
        """`secure_cookies` says that browsers come by HTTPS only."""
        self._use_cases = use_cases
        self._secure_cookies = secure_cookies

    async def IssueToken(self, request: pb.IssueTokenRequest, context: object) -> pb.IssueTokenResponse:
        """See the contract."""
        token = await self._use_cases.issue_token(request.username, request.password)
        return pb.IssueTokenResponse(access_token=token.text, token_type="bearer", expires_in=token.expires_in)  # noqa: S106

    async def CreateWatchTicket(self, request: pb.CreateWatchTicketRequest, context: Context) -> pb.CreateWatchTicketResponse:
        """See the contract."""
        call = current_call()
        left = None if call.token_ends is None else timedelta(seconds=call.token_ends - asyncio.get_running_loop().time())
        made = await self._use_cases.create_watch_ticket(call.principal, request.task_id, left)
        await context.send_initial_metadata(
            (("set-cookie", watch_cookie(request.task_id, made.cookie, secure=self._secure_cookies)),)
        )
        return pb.CreateWatchTicketResponse(
            ticket=made.ticket.text, expires_in=made.ticket.expires_in, cookie_expires_in=made.cookie.expires_in
        )

    async def GetJsonWebKeySet(self, request: pb.GetJsonWebKeySetRequest, context: object) -> pb.GetJsonWebKeySetResponse:
        """See the contract."""
        return keys_to_proto(await self._use_cases.get_json_web_key_set())

    async def CreateUser(self, request: pb.CreateUserRequest, context: object) -> user_pb2.User:
        """See the contract."""
        user = await self._use_cases.create_user(current_call().principal, new_user_from_proto(request))
        return user_to_proto(user)

    async def GetUser(self, request: pb.GetUserRequest, context: object) -> user_pb2.User:
        """See the contract."""
        return user_to_proto(await self._use_cases.get_user(current_call().principal, request.username))

    async def ListUsers(self, request: pb.ListUsersRequest, context: object) -> pb.ListUsersResponse:
        """See the contract."""
        users, next_page_token = await self._use_cases.list_users(current_call().principal, request.page_size, request.page_token)
        return pb.ListUsersResponse(users=map(user_to_proto, users), next_page_token=next_page_token)

    async def EraseUser(self, request: pb.EraseUserRequest, context: object) -> user_pb2.User:
        """See the contract."""
        user = await self._use_cases.erase_user(current_call().principal, request.tenant_id, request.username)
        return user_to_proto(user)

    async def CreateTenant(self, request: pb.CreateTenantRequest, context: object) -> user_pb2.Tenant:
        """See the contract."""
        tenant = await self._use_cases.create_tenant(request.tenant.tenant_id, request.tenant.display_name)
        return tenant_to_proto(tenant)

    async def ListTenants(self, request: pb.ListTenantsRequest, context: object) -> pb.ListTenantsResponse:
        """See the contract."""
        tenants, next_page_token = await self._use_cases.list_tenants(request.page_size, request.page_token)
        return pb.ListTenantsResponse(tenants=map(tenant_to_proto, tenants), next_page_token=next_page_token)
