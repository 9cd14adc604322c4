"""The tools that come with the mesh; every tenant sees them and none can replace them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.tool.domain.model import JSON, Effect, Tool

PYTHON: Final = Tool(
    tool_name="python",
    description=(
        "Runs Python 3.11 code in a sandbox without network and gives what it printed. Use it to compute, to parse and to"
        " check. The code finds `input` in the variable `arguments`, and what it assigns to `result` comes back as JSON."
    ),
    input_schema={
        "type": "object",
        "properties": {
            "code": {"type": "string", "minLength": 1, "maxLength": 50_000, "description": "Python source to run."},
            "input": {"description": "Any JSON value; the code finds it in the variable `arguments`."},
        },
        "required": ["code"],
        "additionalProperties": False,
    },
    effect=Effect.PURE,
    source="",
    built_in=True,
)

BUILT_IN: Final[Mapping[str, Tool]] = {PYTHON.tool_name: PYTHON}


def code_of(tool: Tool, arguments: Mapping[str, JSON]) -> tuple[str, JSON]:
    """The Python to run for a call of `tool`, and what it finds in `arguments`."""
    if tool.built_in:
        return str(arguments["code"]), arguments.get("input")
    return tool.source, arguments
