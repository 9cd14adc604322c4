"""AsyncAPI's own parser takes the document."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import node_folder

ROOT = Path(__file__).resolve().parents[3]
CHECKER = ROOT / "tests" / "support" / "asyncapi"
DOCUMENT = (ROOT / "gen" / "asyncapi" / "asyncapi.json").read_text()
pytestmark = [pytest.mark.toolchain, pytest.mark.timeout(300)]


def check(document: str) -> Any:
    done = subprocess.run(
        [node_folder(CHECKER), "check.mjs"], cwd=CHECKER, input=document, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_the_document_is_asyncapi_3() -> None:
    answer = check(DOCUMENT)
    errors = [f"{each['path']}: {each['message']}" for each in answer["diagnostics"] if each["severity"] <= 1]
    assert errors == []
    assert answer["valid"]


def test_the_parser_refuses_what_is_wrong() -> None:
    def broken(change: Callable[[Any], object]) -> str:
        document = json.loads(DOCUMENT)
        change(document)
        return json.dumps(document)

    channel = "task-events"
    wrong = {
        "a channel without an address of text": lambda it: it["channels"][channel].update(address=1),
        "an operation on a channel that is not there": lambda it: it["operations"][f"publish-{channel}"]["channel"].update(
            {"$ref": "#/channels/none"}
        ),
        "a binding that Kafka has not": lambda it: it["channels"][channel]["bindings"]["kafka"].update(partitions="many"),
    }
    for name, change in wrong.items():
        assert not check(broken(change))["valid"], name
