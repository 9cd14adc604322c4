"""What becomes of the bytes that a sandbox leaves behind, whoever wrote them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tool.adapters.sandbox.answer import BEGAN, Remains, outcome_of
from services.tool.domain.errors import SandboxLost, SandboxUnavailable
from services.tool.domain.model import OUTPUT_LIMIT, Program
from services.tool.domain.values import NotJson, clean_json, clean_text

PROGRAM = Program("", None, 30)


def remains(control: bytes, output: bytes = b"", exit_code: int = 0) -> Remains:
    left = Remains(exit_code=exit_code)
    left.output.add(output)
    left.control.add(control)
    return left


@given(st.binary(max_size=400), st.binary(max_size=400), st.integers(0, 255))
def test_any_bytes_make_an_answer_that_can_be_sent(control: bytes, output: bytes, exit_code: int) -> None:
    outcome = outcome_of(PROGRAM, remains(BEGAN + control, output, exit_code))
    for text in (outcome.output, outcome.error, json.dumps(outcome.result, ensure_ascii=False)):
        text.encode()
    assert "\0" not in outcome.error
    assert outcome.success or outcome.error


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists))
def test_any_frame_makes_an_answer_that_can_be_sent(frame: object) -> None:
    outcome = outcome_of(PROGRAM, remains(BEGAN + json.dumps({"result": frame, "error": frame}).encode() + b"\n"))
    json.dumps(outcome.result, ensure_ascii=False, allow_nan=False).encode()


def test_a_program_that_did_not_arrive_is_not_an_answer() -> None:
    with pytest.raises(SandboxUnavailable):
        outcome_of(PROGRAM, remains(b"bwrap: No permissions to create new namespace\n", exit_code=1))


def test_a_sandbox_that_was_killed_from_outside_is_lost() -> None:
    with pytest.raises(SandboxLost):
        outcome_of(PROGRAM, remains(BEGAN, exit_code=-9))


def test_output_is_cut_in_bytes_and_never_in_the_middle_of_a_character() -> None:
    outcome = outcome_of(PROGRAM, remains(BEGAN, "€".encode() * OUTPUT_LIMIT))
    assert len(outcome.output.encode()) <= OUTPUT_LIMIT
    assert outcome.output.endswith("€\n[output cut at 1 MiB]")


def test_a_surrogate_pair_is_joined_and_a_lone_one_replaced() -> None:
    assert clean_text("\ud83d\ude00 \ud83d") == "\U0001f600 \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1}, b"x", [[[1]]]])
def test_what_cannot_travel_is_refused(value: object) -> None:
    with pytest.raises(NotJson):
        clean_json(value, depth=2)
