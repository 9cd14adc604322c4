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


def broken(change: Callable[[Any], object]) -> str:
    document = json.loads(DOCUMENT)
    change(document)
    return json.dumps(document)


WRONG: dict[str, Callable[[Any], object]] = {
    "an address that is no text": lambda it: it["channels"]["task-events"].update(address=1),
    "an operation without its channel": lambda it: it["operations"]["publish-task-events"]["channel"].update(
        {"$ref": "#/channels/none"}
    ),
    "partitions that are no number": lambda it: it["channels"]["task-events"]["bindings"]["kafka"].update(partitions="many"),
}


def test_the_document_is_asyncapi_3_and_the_parser_would_refuse_what_is_not() -> None:
    documents = {"ours": DOCUMENT} | {name: broken(change) for name, change in WRONG.items()}
    done = subprocess.run(
        [node_folder(CHECKER), "check.mjs"], cwd=CHECKER, input=json.dumps(documents), capture_output=True, text=True, check=True
    )
    answers = json.loads(done.stdout)
    found = [f"{each['path']}: {each['message']}" for each in answers["ours"]["diagnostics"] if each["severity"] <= 1]
    assert found == [], "errors and warnings"
    assert {name: answer["valid"] for name, answer in answers.items()} == {"ours": True} | dict.fromkeys(WRONG, False)
