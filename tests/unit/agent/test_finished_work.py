from __future__ import annotations

from services.agent.domain.finished_work import describe
from services.agent.domain.work import EndedTask

ANSWER = {"response": "It rose.", "provider": "local", "model": "small", "input_tokens": 3.0, "output_tokens": 4.0}


def test_each_is_told_by_name_with_how_it_ended_and_what_it_gave() -> None:
    told = describe(
        {
            "figures": EndedTask("t1", "completed", {"b": [1.0, 2.5], "a": "é"}),
            "note": EndedTask("t2", "completed", "Plain text."),
            "opinion": EndedTask("t3", "completed", dict(ANSWER)),
            "mail": EndedTask("t4", "failed", error_reason="TIMEOUT", error_message="It took too long."),
            "call": EndedTask("t5", "cancelled"),
            "book": EndedTask("t6", "completed", result_omitted=True),
        }
    )
    assert told == (
        '"figures" (completed):\n{"a":"é","b":[1,2.5]}\n\n'
        '"note" (completed):\nPlain text.\n\n'
        '"opinion" (completed):\nIt rose.\n\n'
        '"mail" (failed):\nTIMEOUT: It took too long.\n\n'
        '"call" (cancelled):\n[It has no result.]\n\n'
        '"book" (completed):\n[The result is not here: it is too large to be handed over, or no longer kept. Its task is t6.]'
    )


def test_a_result_that_only_looks_like_an_answer_is_told_whole() -> None:
    assert describe({"x": EndedTask("t", "completed", {"response": "yes", "count": 1.0})}) == (
        '"x" (completed):\n{"count":1,"response":"yes"}'
    )


def test_what_is_too_long_loses_its_middle_and_says_how_much() -> None:
    text = "a" * 60 + "b" * 40
    assert describe({"x": EndedTask("t", "completed", text)}, limit=10) == (
        '"x" (completed):\naaaaa\n[… 90 of 100 characters are left out …]\nbbbbb'
    )


def test_small_results_are_whole_and_leave_their_room_to_the_large_ones() -> None:
    small, large = "q" * 10, "z" * 500
    told = describe(
        {
            "one": EndedTask("1", "completed", large),
            "two": EndedTask("2", "completed", small),
            "three": EndedTask("3", "completed", large),
        },
        limit=110,
    )
    assert small in told
    assert told.count("z") == 100


def test_a_hundred_long_results_take_no_more_than_the_limit() -> None:
    told = describe({f"n{number}": EndedTask(str(number), "completed", "z" * 100_000) for number in range(100)})
    assert told.count("z") == 16_000
    assert len(told) < 25_000
