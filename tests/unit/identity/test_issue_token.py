"""Logging in, whoever tries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import jwt
import pytest
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from services.identity.adapters.argon2_passwords import Argon2Passwords
from services.identity.adapters.shared_secret import SharedSecretSigner
from services.identity.domain.errors import InvalidCredentials
from services.identity.domain.ports import Verification
from services.identity.domain.user import Login, User
from services.identity.usecases.issue_token import IssueToken

SECRET = "a secret of more than thirty-two bytes"


class OneLogin:
    """Logins with the single user `ada`."""

    def __init__(self, password_hash: str) -> None:
        user = User("ada", "acme", "", ("user",), True, datetime.now(UTC))
        self.login = Login(user, password_hash)

    async def find(self, username: str) -> Login | None:
        return self.login if username == "ada" else None

    async def replace_hash(self, login: Login, password_hash: str) -> None:
        self.login = Login(login.user, password_hash)


def use_case(logins: OneLogin) -> IssueToken:
    return IssueToken(logins, Argon2Passwords(), SharedSecretSigner(SECRET, "HS256"), timedelta(minutes=30))


async def test_the_right_password_gives_a_token_signed_with_the_shared_secret() -> None:
    logins = OneLogin(await Argon2Passwords().hash("lovelace"))
    token = await use_case(logins)("ada", "lovelace")
    claims = jwt.decode(token.text, SECRET, algorithms=["HS256"], audience="guildmesh", issuer="guildmesh")
    assert (claims["sub"], claims["tenant"], token.expires_in) == ("ada", "acme", 1800)
    assert jwt.get_unverified_header(token.text) == {"alg": "HS256", "kid": "shared", "typ": "JWT"}


async def test_a_wrong_password_and_an_unknown_user_look_the_same() -> None:
    issue_token = use_case(OneLogin(await Argon2Passwords().hash("lovelace")))
    with pytest.raises(InvalidCredentials) as wrong:
        await issue_token("ada", "byron")
    with pytest.raises(InvalidCredentials) as unknown:
        await issue_token("eve", "lovelace")
    assert str(wrong.value) == str(unknown.value)
    assert wrong.value.metadata == unknown.value.metadata == {}


async def test_an_unknown_user_costs_a_hash_too(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    original = PasswordHash.verify_and_update

    def counted(self: PasswordHash, password: str, password_hash: str) -> tuple[bool, str | None]:
        checked.append(password_hash)
        return original(self, password, password_hash)

    monkeypatch.setattr(PasswordHash, "verify_and_update", counted)
    passwords = Argon2Passwords()
    assert await passwords.verify("anything", None) == Verification(False)
    real = await passwords.hash("lovelace")
    assert (await passwords.verify("lovelace", real)).valid
    parameters = [text.split("$")[1:4] for text in checked]
    assert len(parameters) == 2
    assert parameters[0] == parameters[1]


async def test_a_hash_made_with_weaker_parameters_is_replaced_at_the_next_login() -> None:
    weak = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),)).hash("lovelace")
    logins = OneLogin(weak)
    await use_case(logins)("ada", "lovelace")
    assert logins.login.password_hash != weak
    await use_case(logins)("ada", "lovelace")


async def test_a_hash_of_an_unknown_kind_never_matches() -> None:
    assert not (await Argon2Passwords().verify("lovelace", "$md5$whatever")).valid
