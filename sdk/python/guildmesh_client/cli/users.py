"""`guildmesh users`."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import grpc
import typer
from guildmesh.identity.v1 import identity_service_pb2 as pb
from guildmesh.identity.v1 import identity_service_pb2_grpc as stubs
from guildmesh.identity.v1 import user_pb2
from rich.table import Table

from guildmesh_client.cli.connection import Connection, connect
from guildmesh_client.cli.errors import CommandError
from guildmesh_client.cli.output import err, out

app = typer.Typer(help="Users: create, list.", no_args_is_help=True)

_SECONDS = 30.0


@app.command("create")
def create_user(
    name: Annotated[str, typer.Argument(help="The login name.")],
    password: Annotated[str, typer.Option(help="Read from the terminal or stdin when it is not given.")] = "",
    tenant: Annotated[str, typer.Option(help="Yours if empty; made when it is missing. Needs the role operator.")] = "",
    role: Annotated[list[str] | None, typer.Option(help="user, admin or operator; may be given more than once.")] = None,
    email: Annotated[str, typer.Option(help="An email address.")] = "",
) -> None:
    """Create a user."""
    secret = password or _ask_password()
    request = pb.CreateUserRequest(username=name, password=secret, email=email, roles=role or [], tenant_id=tenant)
    with connect() as connection:
        stub = stubs.IdentityServiceStub(connection.channel)
        try:
            user = stub.CreateUser(request, metadata=connection.metadata, timeout=_SECONDS)
        except grpc.RpcError as error:
            if not tenant or not isinstance(error, grpc.Call) or error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            _create_tenant(connection, stub, tenant)
            user = stub.CreateUser(request, metadata=connection.metadata, timeout=_SECONDS)
    roles = ", ".join(user.roles)
    out.print(f"created {user.username} in tenant {user.tenant_id} with {roles}", highlight=False, markup=False)


@app.command("list")
def list_users() -> None:
    """List the users of your tenant."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("user", "tenant", "roles", "email"):
        table.add_column(heading)
    with connect() as connection:
        stub = stubs.IdentityServiceStub(connection.channel)
        page_token = ""
        while True:
            request = pb.ListUsersRequest(page_size=200, page_token=page_token)
            response = stub.ListUsers(request, metadata=connection.metadata, timeout=_SECONDS)
            for user in response.users:
                table.add_row(user.username, user.tenant_id, ", ".join(user.roles), user.email)
            page_token = response.next_page_token
            if not page_token:
                break
    out.print(table)


def _create_tenant(connection: Connection, stub: stubs.IdentityServiceStub, tenant: str) -> None:
    request = pb.CreateTenantRequest(tenant=user_pb2.Tenant(tenant_id=tenant))
    stub.CreateTenant(request, metadata=connection.metadata, timeout=_SECONDS)
    err.print(f"created tenant {tenant}", style="dim", highlight=False, markup=False)


def _ask_password() -> str:
    secret = getpass.getpass("Password: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not secret:
        raise CommandError("A user needs a password: give it with --password or on stdin.")
    return secret
