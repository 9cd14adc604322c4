"""`guildmesh down`."""

from __future__ import annotations

from services.embedded.commands.console import one_line_errors, open_state, out
from services.embedded.mesh import take_down


def down() -> None:
    """Stop the mesh, and whatever a killed one left behind."""
    with one_line_errors():
        _, state = open_state()
        if take_down(state):
            out.print("The mesh is down.")
        else:
            out.print(f"No mesh runs from {state.path}.", highlight=False, soft_wrap=True)
