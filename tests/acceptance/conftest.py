"""One running mesh for all acceptance tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.mesh import RunningMesh
from tests.support.servers import server_folder


@pytest.fixture(scope="session")
def mesh() -> Iterator[RunningMesh]:
    """A mesh that is up, on free ports. Whoever stops or kills a part waits until all is healthy again.

    Leases are a third shorter than by default: many tests wait for the end of one.
    """
    with server_folder("mesh") as folder:
        running = RunningMesh(folder / "state", {"GUILDMESH_LEASE_SECONDS": "10", "GUILDMESH_HEARTBEAT_SECONDS": "3"})
        try:
            running.up()
            yield running
        finally:
            running.down()
