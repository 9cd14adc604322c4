"""A task that an agent answers."""

from __future__ import annotations

from services.agent.domain.work import ANSWER_FIELDS, Attempt, EndedTask
from services.agent.usecases.answer_task import AnswerTask
from services.common.json_values import JsonObject
from tests.support.agent_doubles import InMemoryModel


async def asked(context: JsonObject | None = None, **dependencies: EndedTask) -> str:
    model = InMemoryModel()
    result = await AnswerTask(model)(Attempt("t", 1, "Sum it up.", context or {}, 300, 299.0, dependencies=dependencies))
    assert result.keys() == ANSWER_FIELDS
    return model.asked[0][-1].content


async def test_a_bare_task_is_asked_as_it_is() -> None:
    assert await asked() == "Sum it up."


async def test_the_task_comes_last_after_the_results_it_waited_for_and_its_context() -> None:
    assert await asked({"k": 1.0}) == 'Context:\n{"k":1}\n\nTask:\nSum it up.'
    assert await asked({"k": 1.0}, pages=EndedTask("p", "completed", "Ten pages.")) == (
        'Results of earlier tasks:\n"pages" (completed):\nTen pages.\n\nContext:\n{"k":1}\n\nTask:\nSum it up.'
    )
    assert await asked(pages=EndedTask("p", "failed", error_reason="LOST", error_message="Gone.")) == (
        'Results of earlier tasks:\n"pages" (failed):\nLOST: Gone.\n\nTask:\nSum it up.'
    )
