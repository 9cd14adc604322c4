"""Each service can be deployed alone: with what is shared and the generated code, and nothing of the others."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("service", ["identity", "scheduler", "agent", "tool", "memory", "monitor"])
def test_a_service_starts_from_its_own_folder_the_shared_one_and_the_generated_code(service: str, tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    (tmp_path / "services").mkdir()
    shutil.copy(ROOT / "services" / "__init__.py", tmp_path / "services")
    for name in ("common", service):
        shutil.copytree(ROOT / "services" / name, tmp_path / "services" / name, ignore=ignore)
    code = f"import services.{service}.bootstrap, services; assert services.__file__.startswith({str(tmp_path)!r})"
    path = [str(tmp_path), str(ROOT / "gen" / "python"), str(ROOT / "sdk" / "python")]
    program = f"import sys; sys.path[:0] = {path!r}; {code}"
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
