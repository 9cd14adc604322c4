"""The generated Go code is a module that builds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.requirements import need_program

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [pytest.mark.toolchain, pytest.mark.timeout(400)]


def test_the_generated_go_module_builds() -> None:
    go = need_program("go")
    environment = {**os.environ, "GOFLAGS": "-mod=readonly"}
    result = subprocess.run([go, "build", "./..."], cwd=ROOT / "gen" / "go", env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
