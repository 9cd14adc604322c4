"""Checks run together, end in time and are shared."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from services.common.errors import DependencyUnavailable
from services.monitor.domain.errors import NotReady
from services.monitor.usecases import observe_mesh
from services.monitor.usecases.get_readiness import GetReadiness
from services.monitor.usecases.get_status import GetStatus
from services.monitor.usecases.observe_mesh import ObserveMesh


async def fine() -> None:
    return


async def broken() -> None:
    raise DependencyUnavailable("database")


async def odd() -> None:
    raise ValueError("no such host")


async def hanging() -> None:
    await asyncio.Event().wait()


async def test_every_way_to_be_down_is_told_and_dependencies_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe_mesh, "CHECK_TIMEOUT", 0.01)
    report = await ObserveMesh({"kafka": hanging, "database": broken, "redis": fine}, {"agent": odd}).report()
    assert report.down == ("database", "kafka", "agent")
    assert report.checks["kafka"].message == "did not answer within 0.01 s"
    assert "no such host" in report.checks["agent"].message
    assert report.checks["redis"].message == ""


async def test_one_failure_in_a_row_is_not_down_and_two_are() -> None:
    failures = [DependencyUnavailable("redis")]

    async def flapping() -> None:
        if failures:
            raise failures.pop()

    assert (await ObserveMesh({"redis": flapping}, {}).report()).healthy
    failures = [DependencyUnavailable("redis"), DependencyUnavailable("redis")]
    assert (await ObserveMesh({"redis": flapping}, {}).report()).down == ("redis",)


async def test_what_goes_down_and_comes_back_is_logged_once_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe_mesh, "CACHE_SECONDS", -1)
    away = True

    async def database() -> None:
        if away:
            raise DependencyUnavailable("database")

    mesh = ObserveMesh({"database": database}, {})
    with capture_logs() as logs:
        await mesh.report()
        await mesh.report()
        away = False
        await mesh.report()
        await mesh.report()
    assert [(entry["event"], entry["part"]) for entry in logs] == [("part is down", "database"), ("part is back", "database")]
    assert logs[0]["cause"]


async def test_those_who_ask_at_once_share_one_round_of_checks() -> None:
    rounds = 0

    async def counted() -> None:
        nonlocal rounds
        rounds += 1

    mesh = ObserveMesh({"database": counted}, {})
    await asyncio.gather(*(mesh.report() for _ in range(20)))
    assert rounds == 1


async def test_readiness_names_all_that_is_down() -> None:
    with pytest.raises(NotReady) as refused:
        await GetReadiness(ObserveMesh({"database": broken, "kafka": odd}, {}))()
    assert refused.value.message == "Not ready: database, kafka do not answer."
    assert refused.value.metadata == {"down": "database,kafka"}


class AwayScheduler:
    async def count(self) -> dict[str, int]:
        raise DependencyUnavailable("scheduler")


async def test_the_status_is_told_without_counts_when_the_scheduler_is_away() -> None:
    status = await GetStatus(ObserveMesh({"database": fine}, {"scheduler": broken}), AwayScheduler())()
    assert not status.counted
    assert status.tasks == {}
    assert status.report.down == ("scheduler",)
