"""`guildmesh users`."""

from __future__ import annotations

import getpass
import sys
import time
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

app = typer.Typer(help="Users: create, list, erase.", no_args_is_help=True)

_SECONDS = 30.0
_LONGEST_WAIT_SECONDS = 60.0
_LOOK_SECONDS = 1.0


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
                roles = "erased" if user.HasField("erase_time") else ", ".join(user.roles)
                table.add_row(user.username, user.tenant_id, roles, user.email)
            page_token = response.next_page_token
            if not page_token:
                break
    out.print(table)


@app.command("erase")
def erase_user(
    name: Annotated[str, typer.Argument(help="The login name.")],
    tenant: Annotated[str, typer.Option(help="Yours if empty; another one needs the role operator.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase a user for good, and wait until the keys of the user's encrypted events are destroyed."""
    if not yes and not typer.confirm(f"Erase {name} for good?"):
        raise CommandError("Nothing is erased.")
    with connect() as connection:
        stub = stubs.IdentityServiceStub(connection.channel)
        request = pb.EraseUserRequest(username=name, tenant_id=tenant)
        end = time.monotonic() + _LONGEST_WAIT_SECONDS
        while True:
            user = stub.EraseUser(request, metadata=connection.metadata, timeout=_SECONDS)
            if user.HasField("keys_destroy_time"):
                break
            if time.monotonic() > end:
                raise CommandError(
                    f"{name} is erased and cannot log in, but the scheduler does not answer, so the keys of {name}'s events are"
                    " not destroyed yet. The mesh goes on by itself; run this again to see whether it is done."
                )
            time.sleep(_LOOK_SECONDS)
    out.print(f"erased {name}; nobody can read {name}'s encrypted events any more", highlight=False, markup=False)


def _create_tenant(connection: Connection, stub: stubs.IdentityServiceStub, tenant: str) -> None:
    request = pb.CreateTenantRequest(tenant=user_pb2.Tenant(tenant_id=tenant))
    stub.CreateTenant(request, metadata=connection.metadata, timeout=_SECONDS)
    err.print(f"created tenant {tenant}", style="dim", highlight=False, markup=False)


def _ask_password() -> str:
    secret = getpass.getpass("Password: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not secret:
        raise CommandError("A user needs a password: give it with --password or on stdin.")
    return secret
