import base64
import json

import pytest

from services.common.context import Principal, acting_as, current_call
from services.common.grpcx.principal import claims_expiry, claims_principal, decode_principal, encode_principal


def encoded(body: object, *, padding: bool = True) -> str:
    text = base64.urlsafe_b64encode(json.dumps(body).encode()).decode()
    return text if padding else text.rstrip("=")


@pytest.mark.parametrize("padding", [True, False])
def test_verified_claims_become_a_user(padding: bool) -> None:
    principal = claims_principal(encoded({"sub": "ada", "tenant": "acme", "roles": ["admin", 3]}, padding=padding))
    assert principal == Principal("ada", "acme", frozenset({"admin"}), "user")


@pytest.mark.parametrize(
    "value",
    ["", "%%%", encoded([]), encoded({"sub": "ada"}), encoded({"sub": "", "tenant": "a"}), encoded({"sub": 1, "tenant": "a"})],
)
def test_claims_without_a_subject_or_a_tenant_are_nobody(value: str) -> None:
    assert claims_principal(value) is None


def test_verified_claims_say_when_the_token_ends() -> None:
    assert claims_expiry(encoded({"sub": "ada", "tenant": "acme", "exp": 1_800_000_000})) == 1_800_000_000.0


@pytest.mark.parametrize("value", ["", "%%%", encoded([]), *(encoded({"exp": odd}) for odd in (None, "1", True, float("nan")))])
def test_claims_that_do_not_say_so_have_no_end(value: str) -> None:
    assert claims_expiry(value) is None


def test_a_principal_survives_the_way_between_services() -> None:
    principal = Principal("jörg", "acme", frozenset({"user", "admin"}), "service")
    assert decode_principal(encode_principal(principal)) == principal
    assert decode_principal("x") is None


def test_claims_cannot_pretend_to_be_a_service() -> None:
    principal = claims_principal(encoded({"sub": "service:agent", "tenant": "acme", "kind": "service"}))
    assert principal is not None
    assert principal.kind == "user"


def test_background_work_acts_as_another_only_within_its_block() -> None:
    before = current_call().principal
    with acting_as(Principal("ada", "acme"), traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01") as call:
        assert current_call() is call
        assert call.trace_id == "1" * 32
    assert current_call().principal == before
