"""Which tests run side by side: a file's in one process, all that use the one running mesh in one, the longest first."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

_MESH = "tests/acceptance/"
# What takes longest comes first, so that no process is left alone with it in the end.
_ORDER = (_MESH, "tests/integration/", "tests/faults/", "tests/contract/", "tests/architecture/", "tests/unit/")


def place_of(nodeid: str) -> int:
    """Where in the order the tests of a folder come."""
    return next((place for place, folder in enumerate(_ORDER) if nodeid.startswith(folder)), len(_ORDER))


class TestScheduling(LoadFileScheduling):
    """By file, but for those of the mesh, whose start takes all processors for ten seconds."""

    __test__ = False

    def _split_scope(self, nodeid: str) -> str:
        return _MESH if nodeid.startswith(_MESH) else super()._split_scope(nodeid)
