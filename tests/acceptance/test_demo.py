"""`make demo`: three agents write a report with the right figures, every event is seen on Kafka, and it can be run again."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.mesh import RunningMesh

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]
FIGURES = ("119,435.80", "57,614.10", "30,633.20", "21,647.70", "9,540.80", "110.8%", "109.4%", "86.6%", "86.7%")


def run_demo(mesh: RunningMesh) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py")],
        env={**mesh.environment, "COLUMNS": "200"},
        cwd=mesh.state_dir.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def demo_has_run(mesh: RunningMesh) -> None:
    """The demo was run once."""
    mesh.wait_healthy()
    run_demo(mesh)


@pytest.mark.usefixtures("demo_has_run")
def test_the_demo_ends_with_the_right_figures_and_can_be_run_again_within_a_minute(mesh: RunningMesh) -> None:
    mesh.wait_healthy()
    started = time.monotonic()
    output = run_demo(mesh)
    assert time.monotonic() - started < 60
    assert all(figure in output for figure in FIGURES), output
    # Each task is created, starts and ends; the run is told of its six steps, and the rest is what they say and do meanwhile.
    found = re.search(r"(\d+) events of 7 tasks on Kafka", output)
    assert found is not None, output
    assert int(found[1]) >= 7 * 3 + 2 * 6
    assert "tool_returned" in output
    assert "2 calls of the language model" in output
    mesh.wait_healthy()


@pytest.mark.usefixtures("demo_has_run")
def test_the_plans_four_metrics_are_not_zero_after_the_demo(mesh: RunningMesh) -> None:
    headers = {"authorization": f"Bearer {mesh.token()}"}
    answer = httpx.post(f"{mesh.url}/chat", json={"message": "Count to three."}, headers=headers, timeout=60)
    assert answer.status_code == HTTPStatus.OK, answer.text
    page = httpx.get(mesh.metrics_url).text
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0) + sample.value
    for name in ("agent_requests_total", "agent_request_duration_seconds_count", "agent_active_count", "llm_tokens_total"):
        assert totals.get(name, 0) > 0, name
    assert re.search(r'agent_requests_total\{[^}]*endpoint="/chat"[^}]*\} [1-9]', page)
    assert 'le="0.005"' in page
    assert re.search(r'llm_tokens_total\{[^}]*provider="local"', page)
    for agent_type in ("researcher", "coder", "analyst"):
        assert re.search(rf'agent_active_count{{[^}}]*agent_type="{agent_type}"', page)


def test_a_chat_gets_a_real_answer_from_the_local_model_and_goes_on(mesh: RunningMesh) -> None:
    mesh.wait_healthy()
    headers = {"authorization": f"Bearer {mesh.token()}"}
    with httpx.Client(base_url=mesh.url, headers=headers, timeout=60) as client:
        first = client.post("/chat", json={"message": "What is the capital of France?"}).json()
        assert first["response"]
        assert first["provider"] == "local"
        assert first["usage"]["output_tokens"] > 0
        second = client.post("/chat", json={"message": "Thank you!", "conversation_id": first["conversation_id"]}).json()
        assert second["conversation_id"] == first["conversation_id"]
        # The model has read the conversation so far, not only the new message.
        assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"] + first["usage"]["output_tokens"]
        missing = client.post("/chat", json={"message": "Hi", "conversation_id": "01990000-0000-7000-8000-000000000000"})
        assert missing.status_code == 404
        assert missing.json()["details"][0]["reason"] == "CONVERSATION_NOT_FOUND"


def test_the_longest_message_is_answered_by_the_smallest_model(mesh: RunningMesh) -> None:
    mesh.wait_healthy()
    headers = {"authorization": f"Bearer {mesh.token()}"}
    message = ("Here are numbers: " + "1234567890 " * 1000)[:10_000]
    answer = httpx.post(f"{mesh.url}/chat", json={"message": message}, headers=headers, timeout=120)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["input_tokens"] > 1000
