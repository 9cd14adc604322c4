"""One running mesh for all acceptance tests."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import pytest

from tests.support.mesh import RunningMesh, running_mesh
from tests.support.servers import server_folder


@pytest.fixture(scope="session")
def mesh() -> Iterator[RunningMesh]:
    """A mesh that is up, on free ports. Whoever stops or kills a part waits until all is healthy again."""
    with server_folder("mesh") as folder, running_mesh(folder) as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what its mesh has told: its logs go with its folder."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for name, value in item.funcargs.items():
            if isinstance(value, RunningMesh):
                report.sections.append((f"last lines of {name}'s logs", value.told()))
    return report
