"""A ticket is for one task and ends soon, its cookie ends with the caller's token."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import jwt
import pytest

from services.common.context import Principal
from services.identity.adapters.shared_secret import SharedSecretSigner
from services.identity.domain.token import Token
from services.identity.server.convert import watch_cookie
from services.identity.usecases.create_watch_ticket import CreateWatchTicket

SECRET = "a shared secret of at least thirty-two bytes"
ADA = Principal("ada", "acme", frozenset({"admin"}))
TASK = "01990000-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("left", "ticket", "cookie"),
    [(None, 60, 1800), (timedelta(minutes=10), 60, 600), (timedelta(seconds=20), 20, 20), (timedelta(seconds=-1), 1, 1)],
)
async def test_neither_outlives_the_callers_token(left: timedelta | None, ticket: int, cookie: int) -> None:
    create = CreateWatchTicket(SharedSecretSigner(SECRET, "HS256"), timedelta(minutes=30))
    made = await create(ADA, TASK, left)
    assert (made.ticket.expires_in, made.cookie.expires_in) == (ticket, cookie)
    for token in (made.ticket, made.cookie):
        with pytest.raises(jwt.InvalidAudienceError):
            decode(token, "guildmesh")
        claims = decode(token, "guildmesh-watch")
        assert (claims["sub"], claims["tenant"], claims["roles"], claims["task"]) == ("ada", "acme", [], TASK)
        assert claims["exp"] - claims["iat"] == token.expires_in


def decode(token: Token, audience: str) -> dict[str, Any]:
    # One of a second may have ended by now.
    claims: dict[str, Any] = jwt.decode(token.text, SECRET, algorithms=["HS256"], audience=audience, leeway=60)
    return claims


async def test_the_cookie_is_for_the_stream_of_its_task_and_out_of_reach_of_scripts() -> None:
    create = CreateWatchTicket(SharedSecretSigner(SECRET, "HS256"), timedelta(minutes=30))
    cookie = (await create(ADA, TASK, None)).cookie
    expected = f"guildmesh_watch={cookie.text}; Path=/v1/tasks/{TASK}/events; Max-Age=1800; HttpOnly; SameSite=Strict"
    assert watch_cookie(TASK, cookie, secure=False) == expected
    assert watch_cookie(TASK, cookie, secure=True) == f"{expected}; Secure"
