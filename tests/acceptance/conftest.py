"""One running mesh for all acceptance tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.mesh import RunningMesh, running_mesh
from tests.support.servers import server_folder


@pytest.fixture(scope="session")
def mesh() -> Iterator[RunningMesh]:
    """A mesh that is up, on free ports. Whoever stops or kills a part waits until all is healthy again."""
    with server_folder("mesh") as folder, running_mesh(folder) as running:
        yield running
