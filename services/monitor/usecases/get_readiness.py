"""GET /ready (requirement row 14)."""

from __future__ import annotations

from services.monitor.domain.errors import NotReady
from services.monitor.domain.ports import Health


class GetReadiness:
    """Says that the mesh can work, or names all that is down."""

    def __init__(self, health: Health) -> None:
        self._health = health

    async def __call__(self) -> None:
        """Returns when the mesh is ready; raises NotReady otherwise."""
        report = await self._health.report()
        if not report.healthy:
            raise NotReady(report.down)
