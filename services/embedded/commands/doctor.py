"""`guildmesh doctor`."""

from __future__ import annotations

import typer
from rich.markup import escape

from services.embedded.commands.console import one_line_errors, open_state, out
from services.embedded.diagnosis import Level, diagnose

_MARKS = {Level.GOOD: "[green]ok  [/green]", Level.NOTE: "[yellow]note[/yellow]", Level.BAD: "[red]bad [/red]"}


def doctor() -> None:
    """Check whether this machine can run the mesh; exit 1 when something must be changed."""
    with one_line_errors():
        settings, state = open_state()
        findings = diagnose(settings, state)
    for finding in findings:
        out.print(f"{_MARKS[finding.level]}  {escape(finding.about)}: {escape(finding.text)}", highlight=False, soft_wrap=True)
    if any(finding.level is Level.BAD for finding in findings):
        raise typer.Exit(1)
