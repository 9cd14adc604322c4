"""The language model port over a real HTTP server: counting, retries, circuit, context window."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import stamina
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from services.agent.adapters.model_orchestrator import ModelOrchestrator, open_language_model
from services.agent.domain.errors import ModelUnavailable
from services.agent.domain.language_model import ChatMessage
from services.agent.settings import AgentSettings
from tests.support.language_model import StubLanguageModel, fails, says, stub_language_model

QUESTION = [ChatMessage("user", "What is the capital of France?")]


@pytest.fixture
async def stub() -> AsyncIterator[StubLanguageModel]:
    async with stub_language_model() as server:
        yield server


@pytest.fixture
async def local(stub: StubLanguageModel) -> AsyncIterator[ModelOrchestrator]:
    async with open_language_model(settings(GUILDMESH_LOCAL_LLM_URL=stub.url)) as model:
        yield model


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Three attempts as in production, without the waits between them."""
    with stamina.set_testing(True, attempts=3):
        yield


def settings(**values: Any) -> AgentSettings:
    return AgentSettings(_env_file=None, **{"OPENAI_API_KEY": None, "OPENAI_BASE_URL": None, **values})


def tokens(provider: str, model: str) -> float:
    return REGISTRY.get_sample_value("llm_tokens_total", {"provider": provider, "model": model}) or 0.0


async def test_an_answer_tells_its_provider_model_and_tokens_and_counts_them(
    stub: StubLanguageModel, local: ModelOrchestrator
) -> None:
    stub.answer = says(" Paris. ", model="counted", prompt_tokens=12, completion_tokens=3)
    before = tokens("local", "counted")
    answer = await local.complete(QUESTION, max_output_tokens=20)
    assert (answer.text, answer.provider, answer.model) == ("Paris.", "local", "counted")
    assert (answer.input_tokens, answer.output_tokens) == (12, 3)
    assert tokens("local", "counted") - before == 15
    assert stub.requests[0]["messages"] == [{"role": "user", "content": QUESTION[0].content}]
    assert stub.requests[0]["max_completion_tokens"] == 20


async def test_an_answer_is_said_while_it_comes_and_counted_as_any_other(
    stub: StubLanguageModel, local: ModelOrchestrator
) -> None:
    stub.answer = says(" The capital\x00 is Paris. ", model="counted", prompt_tokens=12, completion_tokens=3)
    said: list[str] = []

    async def say(text: str) -> None:
        said.append(text)

    answer = await local.complete(QUESTION, max_output_tokens=20, say=say)
    assert said == [" The ", "capital ", "is ", "Paris. "]
    assert (answer.text, answer.provider, answer.model) == ("The capital is Paris.", "local", "counted")
    assert (answer.input_tokens, answer.output_tokens) == (12, 3)
    assert stub.requests[0]["stream_options"] == {"include_usage": True}


async def test_what_was_not_begun_is_tried_again_and_what_was_said_is_not(
    stub: StubLanguageModel, local: ModelOrchestrator
) -> None:
    said: list[str] = []

    async def say(text: str) -> None:
        said.append(text)

    stub.answers = [fails(503)]
    assert (await local.complete(QUESTION, say=say)).text == "An answer."
    assert (len(stub.requests), said) == (2, ["An ", "answer."])
    stub.breaks_off_after = 1
    with pytest.raises(ModelUnavailable, match="in the middle of its answer"):
        await local.complete(QUESTION, say=say)
    assert (len(stub.requests), said[2:]) == (3, ["An "])


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_an_outage_or_a_rate_limit_is_tried_three_times_and_each_retry_is_logged(
    stub: StubLanguageModel, local: ModelOrchestrator, status: int
) -> None:
    stub.answers = [fails(status), fails(status)]
    with capture_logs() as logs:
        assert (await local.complete(QUESTION)).text == "An answer."
    assert len(stub.requests) == 3
    assert [entry["retry_num"] for entry in logs if entry["event"] == "stamina.retry_scheduled"] == [1, 2]


async def test_after_the_third_attempt_the_model_is_unavailable(stub: StubLanguageModel, local: ModelOrchestrator) -> None:
    stub.answer = fails(503)
    with pytest.raises(ModelUnavailable) as error:
        await local.complete(QUESTION)
    assert len(stub.requests) == 3
    assert error.value.reason == "MODEL_UNAVAILABLE"
    assert error.value.retry_after == 5
    assert error.value.metadata == {"provider": "local"}


@pytest.mark.parametrize(("status", "words"), [(401, "refuses the key"), (400, "refuses the request"), (404, "HTTP 404")])
async def test_a_refusal_is_not_tried_again_and_does_not_open_the_circuit(
    stub: StubLanguageModel, local: ModelOrchestrator, status: int, words: str
) -> None:
    stub.answer = fails(status)
    for _ in range(6):
        with pytest.raises(ModelUnavailable, match=words):
            await local.complete(QUESTION)
    assert len(stub.requests) == 6
    stub.answer = says("back")
    assert (await local.complete(QUESTION)).text == "back"


async def test_five_failures_open_the_circuit_and_spare_the_provider(stub: StubLanguageModel, local: ModelOrchestrator) -> None:
    stub.answer = fails(500)
    for _ in range(3):
        with pytest.raises(ModelUnavailable):
            await local.complete(QUESTION)
    asked = len(stub.requests)
    assert asked == 5
    with pytest.raises(ModelUnavailable) as error:
        await local.complete(QUESTION)
    assert len(stub.requests) == asked
    assert error.value.retry_after is not None
    assert 50 < error.value.retry_after <= 60


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with open_language_model(settings(GUILDMESH_LOCAL_LLM_URL="http://127.0.0.1:9/v1")) as model:
        with pytest.raises(ModelUnavailable, match="does not answer"):
            await model.complete(QUESTION)


async def test_the_window_that_the_server_tells_bounds_what_is_sent(stub: StubLanguageModel, local: ModelOrchestrator) -> None:
    stub.window = 512
    await local.complete([ChatMessage("user", "word " * 4000)], max_output_tokens=1000)
    assert stub.requests[0]["max_completion_tokens"] == 256
    assert len(stub.prompts()[0]) < 1000


async def test_a_conversation_that_is_too_long_after_all_is_shortened_by_what_the_server_says(
    stub: StubLanguageModel, local: ModelOrchestrator
) -> None:
    stub.answers = [fails(400, type="exceed_context_size_error", n_prompt_tokens=2000, n_ctx=1000)]
    assert (await local.complete([ChatMessage("user", "word " * 4000)])).text == "An answer."
    first, second = stub.prompts()
    assert len(second) < len(first) * 0.6


async def test_what_no_database_can_keep_is_taken_out_of_an_answer(stub: StubLanguageModel, local: ModelOrchestrator) -> None:
    stub.answer = says("a\x00b\ud800c")
    assert (await local.complete(QUESTION)).text == "ab?c"


@pytest.mark.parametrize(
    ("values", "provider"),
    [
        ({}, "local"),
        ({"DEFAULT_LLM_PROVIDER": "openai"}, "local"),
        ({"OPENAI_API_KEY": ""}, "local"),
        ({"OPENAI_API_KEY": "sk-1"}, "openai"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, "openai"),
        ({"OPENAI_API_KEY": "sk-1", "DEFAULT_LLM_PROVIDER": "LOCAL"}, "local"),
    ],
)
def test_the_local_model_answers_while_there_is_no_key(values: dict[str, object], provider: str) -> None:
    assert settings(**values).llm_provider == provider


async def test_a_key_and_a_url_lead_to_the_provider_openai_with_the_agents_model(stub: StubLanguageModel) -> None:
    async with open_language_model(settings(OPENAI_API_KEY="sk-1", OPENAI_BASE_URL=stub.url)) as model:
        answer = await model.complete(QUESTION, model="bigger")
        await model.complete(QUESTION)
    assert answer.provider == "openai"
    assert [request["model"] for request in stub.requests] == ["bigger", "gpt-5.4-mini"]
    assert "temperature" not in stub.requests[0]
