"""Every error that the code can raise is in a contract, with the code the contract says; and every reason is used."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
from google.rpc import code_pb2
from guildmesh.common.v1 import policy_pb2

import services
from services.common.errors import DomainError
from services.embedded.gateway_replies import DOMAIN, REPLIES

PACKAGES = ("common", "identity", "scheduler", "agent", "tool", "memory", "monitor")
SKIP = ("services.embedded",)


def load_all() -> None:
    for module in pkgutil.walk_packages(services.__path__, "services."):
        runs_at_import = module.name.endswith(("__main__", ".env")) or ".migrations." in module.name
        if not module.name.startswith(SKIP) and not runs_at_import:
            importlib.import_module(module.name)


def raised() -> list[type[DomainError]]:
    load_all()
    found: list[type[DomainError]] = []
    pending = list(DomainError.__subclasses__())
    while pending:
        error = pending.pop()
        found.append(error)
        pending.extend(error.__subclasses__())
    # Tests make errors of their own; kinds are raised only as their subclasses.
    own = [error for error in found if error.__module__.startswith("services.")]
    return [error for error in own if error.__module__ != "services.common.errors" or error.__base__ not in (DomainError, object)]


def catalogue() -> dict[tuple[str, str], str]:
    table = {}
    for package in PACKAGES:
        module = importlib.import_module(f"guildmesh.{package}.v1.error_reason_pb2")
        domain = "guildmesh.dev" if package == "common" else f"{package}.guildmesh.dev"
        for value in module.DESCRIPTOR.enum_types_by_name["ErrorReason"].values:
            if value.number:
                code = value.GetOptions().Extensions[policy_pb2.error].code
                table[domain, value.name.removeprefix("ERROR_REASON_")] = code_pb2.Code.Name(code)
    return table


@pytest.mark.parametrize("error", raised(), ids=lambda error: error.__name__)
def test_every_error_of_the_code_is_in_a_contract(error: type[DomainError]) -> None:
    assert catalogue().get((error.domain, error.reason)) == error.code


def test_every_reason_of_a_contract_is_used() -> None:
    used = {(error.domain, error.reason) for error in raised()} | {("guildmesh.dev", "INTERNAL")}
    used |= {(DOMAIN, reply.reason) for reply in REPLIES}
    assert set(catalogue()) - used == set()


def test_every_reply_that_the_gateway_makes_itself_is_in_a_contract() -> None:
    assert {(DOMAIN, reply.reason) for reply in REPLIES} - set(catalogue()) == set()
