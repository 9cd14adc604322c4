"""Each service can be deployed alone: with what is shared and the generated code, and nothing of the others."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("identity", "scheduler", "agent", "tool", "memory", "monitor")
Starts = dict[str, "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starts]:
    """Each service as it is imported by an interpreter of its own, all at once: most of it is waiting for files."""
    running = {service: start(service, tmp_path_factory.mktemp(service)) for service in SERVICES}
    yield running
    for process in running.values():
        with process:
            process.kill()


def start(service: str, folder: Path) -> subprocess.Popen[str]:
    ignore = shutil.ignore_patterns("__pycache__")
    (folder / "services").mkdir()
    shutil.copy(ROOT / "services" / "__init__.py", folder / "services")
    for name in ("common", service):
        shutil.copytree(ROOT / "services" / name, folder / "services" / name, ignore=ignore)
    code = f"import services.{service}.bootstrap, services; assert services.__file__.startswith({str(folder)!r})"
    path = [str(folder), str(ROOT / "gen" / "python"), str(ROOT / "sdk" / "python")]
    program = f"import sys; sys.path[:0] = {path!r}; {code}"
    return subprocess.Popen([sys.executable, "-c", program], cwd=folder, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_from_its_own_folder_the_shared_one_and_the_generated_code(service: str, starts: Starts) -> None:
    _, told = starts[service].communicate()
    assert starts[service].returncode == 0, told
