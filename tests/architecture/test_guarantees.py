"""GUARANTEES.md names the tests that enforce it, and they are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PROMISE = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def test_every_promise_is_numbered_and_names_tests_that_exist_or_says_pending() -> None:
    promises = _PROMISE.findall((ROOT / "GUARANTEES.md").read_text())
    assert [int(number) for number, _, _ in promises] == list(range(1, len(promises) + 1))
    assert len(promises) >= 20
    for number, _, enforced in promises:
        files = re.findall(r"`(tests/[^`]+\.py)`", enforced)
        assert files or enforced.startswith("pending"), f"promise {number} names no test and does not say pending"
        assert [file for file in files if not (ROOT / file).is_file()] == [], f"promise {number}"
