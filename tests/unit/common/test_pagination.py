import pytest

from services.common.errors import InvalidPageToken
from services.common.pagination import decode_token, encode_token, page_size


@pytest.mark.parametrize(("requested", "given"), [(0, 50), (1, 1), (200, 200), (201, 200), (10**9, 200)])
def test_a_page_size_is_brought_into_its_limits(requested: int, given: int) -> None:
    assert page_size(requested) == given


def test_a_token_gives_back_its_cursor_for_the_same_arguments() -> None:
    token = encode_token({"queue": "code"}, ["2026", "ä"])
    assert decode_token(token, {"queue": "code"}) == ["2026", "ä"]
    assert decode_token("", {"queue": "code"}) is None


@pytest.mark.parametrize("token", ["x", "!!!!", "e30", "W10", "bnVsbA", "\u00e4"])
def test_a_made_up_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidPageToken):
        decode_token(token, {})


def test_a_token_is_refused_for_other_arguments() -> None:
    with pytest.raises(InvalidPageToken):
        decode_token(encode_token({"queue": "code"}, ["1"]), {"queue": "research"})
