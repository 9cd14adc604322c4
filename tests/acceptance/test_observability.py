"""What an operator sees of a call: one trace through the services, and the plan's metrics."""

from __future__ import annotations

import json
import re
from http import HTTPStatus

import httpx
import pytest

from tests.support.mesh import RunningMesh
from tests.support.waiting import eventually

pytestmark = pytest.mark.acceptance


def traced_services(mesh: RunningMesh, trace_id: str) -> set[str]:
    """The services whose logs have a line of the trace."""
    found = set()
    for log in (mesh.state_dir / "logs").glob("*.log"):
        for line in log.read_text(errors="replace").splitlines():
            if trace_id in line and line.startswith("{") and json.loads(line).get("trace_id") == trace_id:
                found.add(log.stem)
    return found


def test_the_trace_id_of_a_chat_finds_log_lines_in_at_least_three_services(mesh: RunningMesh) -> None:
    headers = {"Authorization": f"Bearer {mesh.token()}"}
    answer = httpx.post(f"{mesh.url}/chat", json={"message": "Say hello."}, headers=headers, timeout=60)
    assert answer.status_code == HTTPStatus.OK, answer.text
    trace_id = answer.headers["x-trace-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", trace_id)
    services = {"agent", "memory"}
    eventually(lambda: len(traced_services(mesh, trace_id)) >= 3 and services <= _kinds(traced_services(mesh, trace_id)))


def _kinds(names: set[str]) -> set[str]:
    return {re.sub(r"-\d+$", "", name) for name in names}


def test_a_client_may_bring_its_own_trace(mesh: RunningMesh) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"Authorization": f"Bearer {mesh.token()}", "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    answer = httpx.get(f"{mesh.url}/v1/tasks", headers=headers)
    assert answer.headers["x-trace-id"] == trace_id
    eventually(lambda: "scheduler" in traced_services(mesh, trace_id))
