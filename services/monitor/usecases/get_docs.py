"""GET /docs and its files."""

from __future__ import annotations

from services.monitor.domain.errors import PageNotFound
from services.monitor.domain.ports import Document, Documents


class GetDocs:
    """Gives the documentation page or one of its files."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    def __call__(self, file: str) -> Document:
        """The file; raises PageNotFound."""
        document = self._documents.page(file)
        if document is None:
            raise PageNotFound(file)
        return document
