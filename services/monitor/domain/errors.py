"""Errors of the domain "monitor.guildmesh.dev"."""

from __future__ import annotations

from services.common.errors import NotFound, Unavailable

DOMAIN = "monitor.guildmesh.dev"


class NotReady(Unavailable):
    """Something that the mesh stands on, or a part of it, is down."""

    reason = "NOT_READY"
    domain = DOMAIN

    def __init__(self, down: tuple[str, ...]) -> None:
        names = ", ".join(down)
        super().__init__(f"Not ready: {names} {'does' if len(down) == 1 else 'do'} not answer.", down=",".join(down))


class PageNotFound(NotFound):
    """No such file of the documentation page."""

    reason = "PAGE_NOT_FOUND"
    domain = DOMAIN

    def __init__(self, file: str) -> None:
        super().__init__(f"No page {file!r}; the documentation is at /docs.", file=file)
