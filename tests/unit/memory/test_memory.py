"""What makes two requests the same, and pages that are asked for wrongly."""

from __future__ import annotations

import pytest

from services.common.context import Principal
from services.common.errors import InvalidPageToken
from services.common.pagination import encode_token
from services.memory.domain.memory import NewMemory
from services.memory.usecases.list_messages import _number


def test_the_order_of_metadata_does_not_matter_to_a_repeat() -> None:
    one = NewMemory("text", "ada", {"a": 1, "b": {"c": [1, 2], "d": None}})
    same = NewMemory("text", "ada", {"b": {"d": None, "c": [1.0, 2]}, "a": 1.0}, request_id="other ids are not compared")
    assert one.fingerprint() == same.fingerprint()


@pytest.mark.parametrize(
    "other",
    [
        NewMemory("Text", "ada", {}),
        NewMemory("text", "bob", {}),
        NewMemory("text", "ada", {"a": 1}),
        NewMemory("textada", "", {}),
    ],
)
def test_another_payload_has_another_fingerprint(other: NewMemory) -> None:
    assert other.fingerprint() != NewMemory("text", "ada", {}).fingerprint()


@pytest.mark.parametrize("cursor", [[], ["x"], ["-1"], ["1", "2"], ["9" * 30], ["²"]])
def test_a_cursor_that_is_no_number_is_refused(cursor: list[str]) -> None:
    with pytest.raises(InvalidPageToken):
        _number(cursor)


def test_tokens_differ_by_tenant() -> None:
    tokens = {encode_token({"list": "x", "tenant": who.tenant_id}, ["1"]) for who in (Principal("a", "t1"), Principal("a", "t2"))}
    assert len(tokens) == 2
