"""The supervisor as a process of its own, for `guildmesh up --detach`: `python -m services.embedded.serve`."""

from __future__ import annotations

import sys

from rich.console import Console

from services.embedded import mesh
from services.embedded.display import Lines
from services.embedded.errors import MeshError
from services.embedded.settings import load_settings
from services.embedded.state import StateFolder


def main() -> int:
    """Runs the mesh until it is asked to stop."""
    console = Console(stderr=True, width=500)
    try:
        settings = load_settings()
        return mesh.bring_up(settings, StateFolder(settings.state_dir), Lines(console).show)
    except MeshError as error:
        console.print(str(error), highlight=False, markup=False)
        return 1


if __name__ == "__main__":
    sys.exit(main())
