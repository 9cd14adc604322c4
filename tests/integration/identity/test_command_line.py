"""`python -m services.identity` as an operator runs it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from services.identity.__main__ import main
from services.identity.settings import ServingSettings


@dataclass
class Outcome:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Outcome]


@pytest.fixture
def identity_command(
    make_settings: Callable[..., ServingSettings],
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    def run(*arguments: str, password: str = "", **environment: str) -> Outcome:
        defaults = {"DATABASE_URL": postgres_url, "GUILDMESH_PROFILE": "development"}
        for name, value in (defaults | environment).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stdin", io.StringIO(password))
        code = main(arguments)
        output = capsys.readouterr()
        return Outcome(code, output.out, output.err)

    return run


def test_create_user_makes_the_tenant_and_repeats_safely(identity_command: Run) -> None:
    name, tenant = f"u{uuid.uuid4().hex[:12]}", f"t{uuid.uuid4().hex[:12]}"
    arguments = ("create-user", name, "--tenant", tenant, "--roles", "admin,operator")
    first = identity_command(*arguments, "--if-missing", password="developer\n")
    assert (first.returncode, first.stdout) == (0, f"created {name} in tenant {tenant} with admin, operator\n")
    again = identity_command(*arguments, "--if-missing", password="other\n")
    assert (again.returncode, again.stdout) == (0, f"{name} exists already; left as it is\n")
    refused = identity_command(*arguments, password="other\n")
    assert (refused.returncode, refused.stderr) == (1, f"identity: The username '{name}' is taken; choose another.\n")


def test_wrong_input_says_in_one_line_what_to_do(identity_command: Run, empty_database_url: str) -> None:
    no_password = identity_command("create-user", "ada")
    assert (no_password.returncode, no_password.stderr) == (1, "identity: password: must be 1 to 1,024 characters\n")
    weak = identity_command("create-user", "ada", password="short\n", GUILDMESH_PROFILE="production")
    assert (weak.returncode, weak.stderr) == (1, "identity: The password needs at least 12 characters.\n")
    role = identity_command("create-user", "ada", "--roles", "king", password="p\n")
    assert "'king' is none of user, admin, operator" in role.stderr
    not_migrated = identity_command("create-user", "ada", password="p\n", DATABASE_URL=empty_database_url)
    assert not_migrated.returncode == 1
    assert "python -m services.identity migrate" in not_migrated.stderr.splitlines()[-1]


def test_a_service_without_a_way_to_sign_does_not_start_and_says_why() -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "services.identity"],
        text=True,
        capture_output=True,
        timeout=60,
        env={**os.environ, "JWT_SECRET_KEY": "", "GUILDMESH_MASTER_KEY": ""},
    )
    assert refused.returncode == 2
    assert "set GUILDMESH_MASTER_KEY" in refused.stderr
