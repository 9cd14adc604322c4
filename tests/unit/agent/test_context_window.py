"""Fitting a conversation into a model's context window."""

from __future__ import annotations

from services.agent.domain.context_window import estimate_tokens, fit, shorten
from services.agent.domain.language_model import ChatMessage


def cost(messages: list[ChatMessage]) -> int:
    return sum(estimate_tokens(message.content) + 8 for message in messages)


def test_what_fits_stays_as_it_is() -> None:
    talk = [
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "Hi"),
        ChatMessage("assistant", "Hello"),
        ChatMessage("user", "Bye"),
    ]
    assert fit(talk, 1000) == talk


def test_the_oldest_of_the_history_is_left_out_first_and_the_question_stays() -> None:
    history = [ChatMessage("user" if n % 2 == 0 else "assistant", f"message {n} " * 20) for n in range(40)]
    talk = [ChatMessage("system", "Be brief."), *history, ChatMessage("user", "What was the last one?")]
    kept = fit(talk, 600)
    assert kept[0] == talk[0]
    assert kept[-1] == talk[-1]
    assert kept[1:-1] == history[-len(kept[1:-1]) :]
    assert 0 < len(kept) - 2 < 40
    assert kept[1].role == "user"
    assert cost(kept) <= 600


def test_a_question_larger_than_the_window_is_shortened_in_its_middle() -> None:
    question = "Count these: " + "1234567890 " * 5000 + "and tell me the sum."
    kept = fit([ChatMessage("system", "Be brief."), ChatMessage("user", question)], 500)
    assert kept[-1].content.startswith("Count these:")
    assert kept[-1].content.endswith("and tell me the sum.")
    assert "[…]" in kept[-1].content
    assert cost(kept) <= 500


def test_instructions_larger_than_the_window_leave_room_for_the_question() -> None:
    kept = fit([ChatMessage("system", "rule " * 5000), ChatMessage("user", "What now?")], 300)
    assert kept[-1].content == "What now?"
    assert cost(kept) <= 300


def test_digits_and_other_scripts_are_estimated_byte_by_byte() -> None:
    assert estimate_tokens("12345") >= 5
    assert estimate_tokens("日本語") >= 9
    assert estimate_tokens("word " * 100) < 200


def test_a_shortened_text_keeps_its_beginning_and_end() -> None:
    text = shorten("a" * 500 + "b" * 500, 60)
    assert text.startswith("a")
    assert text.endswith("b")
    assert estimate_tokens(text) <= 60
