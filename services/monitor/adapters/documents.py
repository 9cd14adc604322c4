"""The OpenAPI and AsyncAPI documents, and the page that shows the first, with the files of the wheel `swagger-ui-bundle`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from swagger_ui_bundle import swagger_ui_path

from services.common.resources import resource
from services.monitor.domain.ports import Document

_FILES = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
# Scripts are files, so that the page's content security policy may refuse inline ones.
_START = """window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  persistAuthorization: false,
  presets: [SwaggerUIBundle.presets.apis],
});
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>guildmesh API</title>
    <link rel="stylesheet" href="/docs/swagger-ui.css">
    <link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
  </head>
  <body>
    <noscript>This page needs JavaScript; the document itself is at <a href="/openapi.json">/openapi.json</a>.</noscript>
    <div id="swagger-ui"></div>
    <script src="/docs/swagger-ui-bundle.js"></script>
    <script src="/docs/start.js"></script>
  </body>
</html>
"""


class FileDocuments:
    """Implements the port Documents over the files of the installation."""

    def open_api(self) -> Document:
        """gen/openapi/openapi.json, compact."""
        return Document("application/json", _compact(resource("openapi/openapi.json")))

    def async_api(self) -> Document:
        """gen/asyncapi/asyncapi.json, compact."""
        return Document("application/json", _compact(resource("asyncapi/asyncapi.json")))

    def page(self, file: str) -> Document | None:
        """The page for "", or a file that it needs."""
        if file == "":
            return Document("text/html; charset=utf-8", _PAGE.encode())
        if file == "start.js":
            return Document("text/javascript; charset=utf-8", _START.encode())
        if file in _FILES:
            return Document(_FILES[file], _bundled(file))
        return None


@cache
def _compact(path: Path) -> bytes:
    return json.dumps(json.loads(path.read_text()), separators=(",", ":")).encode()


@cache
def _bundled(file: str) -> bytes:
    content: bytes = (swagger_ui_path / file).read_bytes()
    return content
