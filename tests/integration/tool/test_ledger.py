"""The effect ledger when processes die in the middle of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from sqlalchemy import text

from services.common.db.database import Database
from services.common.db.engine_role import EngineDatabase
from services.common.ids import new_id
from services.tool.domain.ledger import Step
from services.tool.domain.model import Effect, Execution, Outcome, UsageState
from services.tool.storage.engine.leases import PostgresLeases
from services.tool.storage.ledger import PostgresLedger
from tests.integration.tool.conftest import someone

DONE = Outcome(exit_code=0, output="out\0put", error="", result={"a": ["\0", 1.5, None]}, seconds=0.25)


@pytest.fixture
def process(database: Database) -> Callable[[], PostgresLedger]:
    """Makes the ledger of another process."""
    return lambda: PostgresLedger(database, PostgresLeases(EngineDatabase(database)))


@pytest.fixture
def tenant() -> str:
    return someone().tenant_id


def asked(effect: Effect = Effect.ONCE, attempt: int = 1, step_id: str = "s") -> Execution:
    return Execution(
        execution_id=new_id(),
        tool_name="send",
        username="ada",
        arguments={"to": "bob"},
        effect=effect,
        task_id="t",
        step_id=step_id,
        attempt=attempt,
    )


async def die(database: Database, tenant: str) -> None:
    """Lets every lease of the tenant end, as when the process that held it is gone."""
    async with database.tenant(tenant) as connection:
        await connection.execute(
            text("UPDATE executions SET lease_until = clock_timestamp() - interval '1 s' WHERE tenant_id = :tenant"),
            {"tenant": tenant},
        )


async def test_the_answer_is_kept_exactly(process: Callable[[], PostgresLedger], tenant: str) -> None:
    ledger = process()
    step, row = await ledger.begin(tenant, asked())
    assert step is Step.RUN
    assert await ledger.end(tenant, row, DONE)
    step, row = await process().begin(tenant, asked())
    assert (step, row.outcome) == (Step.REPLAY, DONE)


async def test_another_process_waits_while_the_run_is_alive(process: Callable[[], PostgresLedger], tenant: str) -> None:
    first, second = process(), process()
    _, row = await first.begin(tenant, asked())
    step, waiting = await second.begin(tenant, asked(attempt=2))
    assert step is Step.WAIT
    await first.end(tenant, row, DONE)
    await second.changed(tenant, waiting)
    step, row = await second.begin(tenant, asked(attempt=2))
    assert (step, row.attempt) == (Step.REPLAY, 2)
    assert (await first.begin(tenant, asked(attempt=1)))[0] is Step.STALE


async def test_a_step_that_must_not_run_twice_becomes_unknown_when_its_process_dies(
    process: Callable[[], PostgresLedger], database: Database, tenant: str
) -> None:
    _, cut = await process().begin(tenant, asked())
    await die(database, tenant)
    for attempt in (1, 2):
        step, row = await process().begin(tenant, asked(attempt=attempt))
        assert (step, row.execution_id) == (Step.UNKNOWN, cut.execution_id)
    (usage,), more = await process().list_before(tenant, "t", None, 10)
    assert (usage.state, more) == (UsageState.UNKNOWN, False)


@pytest.mark.parametrize("effect", [Effect.PURE, Effect.IDEMPOTENT])
async def test_a_step_that_may_be_repeated_runs_again_when_its_process_dies(
    process: Callable[[], PostgresLedger], database: Database, tenant: str, effect: Effect
) -> None:
    zombie = process()
    _, cut = await zombie.begin(tenant, asked(effect))
    await die(database, tenant)
    heir = process()
    step, row = await heir.begin(tenant, asked(effect, attempt=2))
    assert (step, row.execution_id) == (Step.RUN, cut.execution_id)
    # The process that was taken for dead ends its run after all: its answer does not count.
    assert not await zombie.end(tenant, cut, DONE)
    assert await heir.end(tenant, row, DONE)
    assert (await process().begin(tenant, asked(effect, attempt=2)))[0] is Step.REPLAY


async def test_only_one_of_many_takes_over(process: Callable[[], PostgresLedger], database: Database, tenant: str) -> None:
    await process().begin(tenant, asked(Effect.PURE))
    await die(database, tenant)
    steps = await asyncio.gather(*(process().begin(tenant, asked(Effect.PURE)) for _ in range(6)))
    assert sorted(step.name for step, _ in steps) == ["RUN"] + ["WAIT"] * 5


async def test_a_run_that_was_marked_unknown_too_early_may_still_end(
    process: Callable[[], PostgresLedger], database: Database, tenant: str
) -> None:
    ledger = process()
    _, row = await ledger.begin(tenant, asked())
    await die(database, tenant)
    await PostgresLeases(EngineDatabase(database)).mark_cut_off()
    assert (await process().begin(tenant, asked()))[0] is Step.UNKNOWN
    assert await ledger.end(tenant, row, DONE)
    assert (await process().begin(tenant, asked()))[0] is Step.REPLAY


async def test_leases_are_renewed_for_the_runs_of_this_process_alone(
    process: Callable[[], PostgresLedger], database: Database, tenant: str
) -> None:
    alive, dead = process(), process()
    await alive.begin(tenant, asked(step_id="alive"))
    await dead.begin(tenant, asked(step_id="dead"))
    await die(database, tenant)
    keeping = asyncio.create_task(alive.keep_leases())
    try:
        async with asyncio.timeout(10):
            while True:
                usages, _ = await process().list_before(tenant, "", None, 10)
                states = {usage.step_id: usage.state for usage in usages}
                if states["dead"] is UsageState.UNKNOWN:
                    break
                await asyncio.sleep(0.02)
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])
    assert states["alive"] is UsageState.RUNNING


async def test_a_released_step_was_never_there(process: Callable[[], PostgresLedger], tenant: str) -> None:
    ledger = process()
    _, row = await ledger.begin(tenant, asked())
    await ledger.release(tenant, row)
    assert await ledger.list_before(tenant, "", None, 10) == ([], False)
    assert (await ledger.begin(tenant, asked()))[0] is Step.RUN


async def test_row_security_hides_other_tenants_without_any_condition(
    process: Callable[[], PostgresLedger], database: Database, tenant: str
) -> None:
    await process().begin(tenant, asked())
    async with database.tenant(someone().tenant_id) as connection:
        for table in ("executions", "tools"):
            assert (await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one() == 0
