"""Between messages and domain objects."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from guildmesh.identity.v1 import identity_service_pb2 as pb
from guildmesh.identity.v1 import user_pb2

from services.identity.domain.token import PublicKey, Token
from services.identity.domain.user import NewUser, Tenant, User

WATCH_COOKIE = "guildmesh_watch"
"""as the gateway knows it."""


@dataclass(frozen=True, slots=True)
class _JsonWebKey:
    """Members of an elliptic-curve key (RFC 7517, 4; RFC 7518, 6.2)."""

    kty: str
    crv: str
    x: str
    y: str
    kid: str
    alg: str
    use: str


def _json_web_key(key: PublicKey) -> _JsonWebKey:
    return _JsonWebKey(kty="EC", crv="P-256", x=key.x, y=key.y, kid=key.key_id, alg="ES256", use="sig")


def keys_to_proto(keys: list[PublicKey]) -> pb.GetJsonWebKeySetResponse:
    """A key set as a message."""
    return pb.GetJsonWebKeySetResponse(keys=[pb.JsonWebKey(**asdict(_json_web_key(key))) for key in keys])


def keys_to_json(keys: list[PublicKey]) -> bytes:
    """A key set as JSON (RFC 7517, 5)."""
    return json.dumps({"keys": [asdict(_json_web_key(key)) for key in keys]}).encode()


def watch_cookie(task_id: str, token: Token, *, secure: bool) -> str:
    """Set-Cookie (RFC 6265): out of reach of scripts and other sites, and sent to the stream of this task alone."""
    attributes = [f"Path=/v1/tasks/{task_id}/events", f"Max-Age={token.expires_in}", "HttpOnly", "SameSite=Strict"]
    return "; ".join([f"{WATCH_COOKIE}={token.text}", *attributes, *(["Secure"] if secure else [])])


def new_user_from_proto(request: pb.CreateUserRequest) -> NewUser:
    """What a request asks to create."""
    return NewUser(
        username=request.username,
        password=request.password,
        email=request.email,
        roles=tuple(request.roles),
        tenant_id=request.tenant_id,
    )


def user_to_proto(user: User) -> user_pb2.User:
    """A user as a message."""
    return user_pb2.User(
        username=user.username,
        tenant_id=user.tenant_id,
        email=user.email,
        roles=user.roles,
        active=user.active,
        create_time=_timestamp(user.create_time),
        erase_time=_timestamp(user.erase_time) if user.erase_time is not None else None,
        keys_destroy_time=_timestamp(user.keys_destroy_time) if user.keys_destroy_time is not None else None,
    )


def tenant_to_proto(tenant: Tenant) -> user_pb2.Tenant:
    """A tenant as a message."""
    return user_pb2.Tenant(
        tenant_id=tenant.tenant_id, display_name=tenant.display_name, create_time=_timestamp(tenant.create_time)
    )


def _timestamp(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    return message
