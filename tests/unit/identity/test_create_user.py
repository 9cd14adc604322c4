"""Who may create whom."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from services.common.context import Principal
from services.common.errors import InvalidRequest, RoleRequired
from services.identity.adapters.argon2_passwords import Argon2Passwords
from services.identity.domain.errors import PasswordTooWeak
from services.identity.domain.password import PasswordPolicy
from services.identity.domain.user import NewUser, User, check_new_user
from services.identity.usecases.create_user import CreateUser

ADMIN = Principal("ada", "acme", frozenset({"admin"}))
OPERATOR = Principal("root", "default", frozenset({"operator"}))


class Created:
    """Users that keeps what it was given."""

    def __init__(self) -> None:
        self.hashes: list[str] = []

    async def create(self, user: NewUser, password_hash: str) -> User:
        self.hashes.append(password_hash)
        return User(user.username, user.tenant_id, user.email, user.roles, True, datetime.now(UTC))

    async def get(self, tenant_id: str, username: str) -> User:
        raise NotImplementedError

    async def list(self, tenant_id: str, limit: int, after: str | None) -> list[User]:
        raise NotImplementedError


def use_case(profile: str = "development") -> tuple[CreateUser, Created]:
    users = Created()
    return CreateUser(users, Argon2Passwords(), PasswordPolicy.of_profile(profile)), users


async def test_a_user_gets_the_callers_tenant_and_the_role_user_and_the_password_is_hashed() -> None:
    create_user, users = use_case()
    user = await create_user(ADMIN, NewUser("bob", "p"))
    assert (user.tenant_id, user.roles) == ("acme", ("user",))
    assert users.hashes[0].startswith("$argon2id$")


@pytest.mark.parametrize(
    "user",
    [
        NewUser("bob", "p", roles=("operator",)),
        NewUser("bob", "p", tenant_id="globex"),
        NewUser("b", "p", "", ("admin", "operator")),
    ],
)
async def test_only_an_operator_gives_the_role_operator_or_names_another_tenant(user: NewUser) -> None:
    create_user, users = use_case()
    with pytest.raises(RoleRequired, match="operator"):
        await create_user(ADMIN, user)
    assert users.hashes == []
    created = await create_user(OPERATOR, user)
    assert created.tenant_id == (user.tenant_id or "default")


async def test_an_admin_may_name_its_own_tenant() -> None:
    create_user, _ = use_case()
    assert (await create_user(ADMIN, NewUser("bob", "p", tenant_id="acme", roles=("admin",)))).roles == ("admin",)


async def test_production_asks_for_twelve_characters() -> None:
    create_user, _ = use_case("production")
    with pytest.raises(PasswordTooWeak, match="at least 12 characters"):
        await create_user(ADMIN, NewUser("bob", "eleven char"))
    assert await create_user(ADMIN, NewUser("bob", "twelve chars"))


@pytest.mark.parametrize(
    ("user", "field"),
    [
        (NewUser("", "p", tenant_id="acme"), "username"),
        (NewUser("-bob", "p", tenant_id="acme"), "username"),
        (NewUser("bob\n", "p", tenant_id="acme"), "username"),
        (NewUser("bob", "", tenant_id="acme"), "password"),
        (NewUser("bob", "p" * 1025, tenant_id="acme"), "password"),
        (NewUser("bob", "p", roles=("root",), tenant_id="acme"), "roles"),
        (NewUser("bob", "p", tenant_id="Acme"), "tenant_id"),
    ],
)
def test_the_command_line_checks_what_the_contract_checks(user: NewUser, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_new_user(user)
    assert caught.value.violations[0][0] == field
