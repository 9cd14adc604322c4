"""Puts the generated code into a wheel; an editable installation reads it where it is generated, never a copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

GENERATED = Path(__file__).resolve().parents[2] / "gen" / "python"


class GeneratedCode(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the packages `guildmesh` and `buf` of gen/python."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds; `version` is "standard" or "editable"."""
        if version == "standard":
            for package in ("guildmesh", "buf"):
                build_data["force_include"][str(GENERATED / package)] = package
