"""The rule of the effect ledger."""

from __future__ import annotations

import pytest

from services.tool.domain.ledger import Step, decide
from services.tool.domain.model import Effect, Execution, UsageState


def known(state: UsageState, effect: Effect, attempt: int = 2) -> Execution:
    return Execution("id", "tool", "ada", {}, effect, task_id="t", step_id="s", attempt=attempt, state=state)


@pytest.mark.parametrize("effect", Effect)
@pytest.mark.parametrize("state", UsageState)
@pytest.mark.parametrize("cut_off", [False, True])
def test_a_lower_attempt_is_always_stale(effect: Effect, state: UsageState, cut_off: bool) -> None:
    assert decide(known(state, effect), 1, cut_off) is Step.STALE


@pytest.mark.parametrize("effect", Effect)
@pytest.mark.parametrize("attempt", [2, 3])
@pytest.mark.parametrize("cut_off", [False, True])
def test_an_ended_step_is_replayed(effect: Effect, attempt: int, cut_off: bool) -> None:
    assert decide(known(UsageState.ENDED, effect), attempt, cut_off) is Step.REPLAY


@pytest.mark.parametrize("effect", Effect)
@pytest.mark.parametrize("attempt", [2, 3])
def test_a_step_that_runs_is_waited_for(effect: Effect, attempt: int) -> None:
    assert decide(known(UsageState.RUNNING, effect), attempt, cut_off=False) is Step.WAIT


@pytest.mark.parametrize(
    ("effect", "step"), [(Effect.ONCE, Step.UNKNOWN), (Effect.PURE, Step.RUN), (Effect.IDEMPOTENT, Step.RUN)]
)
@pytest.mark.parametrize("attempt", [2, 3])
def test_a_step_that_was_cut_off_runs_again_only_if_that_does_no_harm(effect: Effect, step: Step, attempt: int) -> None:
    assert decide(known(UsageState.RUNNING, effect), attempt, cut_off=True) is step
    assert decide(known(UsageState.UNKNOWN, effect), attempt, cut_off=False) is step
