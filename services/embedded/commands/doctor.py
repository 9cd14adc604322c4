"""`guildmesh doctor`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from services.embedded.commands.console import one_line_errors, open_state, out
from services.embedded.diagnosis import Level, database_url, diagnose

_MARKS = {Level.GOOD: "[green]ok  [/green]", Level.NOTE: "[yellow]note[/yellow]", Level.BAD: "[red]bad [/red]"}


def doctor(
    data: Annotated[bool, typer.Option("--data", help="Check what the scheduler keeps, in one snapshot of its tables.")] = False,
) -> None:
    """Check whether this machine can run the mesh, or with --data whether its data is sound; exit 1 when something is wrong."""
    good = _data() if data else _machine()
    if not good:
        raise typer.Exit(1)


def _machine() -> bool:
    with one_line_errors():
        settings, state = open_state()
        findings = diagnose(settings, state)
    for finding in findings:
        _say(finding.level, finding.about, finding.text)
    return not any(finding.level is Level.BAD for finding in findings)


def _data() -> bool:
    # It brings numpy, which every command would wait for.
    from services.embedded.data_check import check_data, object_store_of

    with one_line_errors():
        settings, state = open_state()
        findings = check_data(database_url(settings, state), object_store_of(state.path))
    for finding in findings:
        level = Level.BAD if finding.wrong else Level.NOTE if finding.note else Level.GOOD
        rows = f"{finding.rows:,} row{'' if finding.rows == 1 else 's'}"
        _say(level, finding.about, "; ".join(part for part in (rows, finding.note) if part))
        for text in finding.problems:
            _say(Level.BAD, finding.about, text)
        if finding.wrong > len(finding.problems):
            _say(Level.BAD, finding.about, f"and {finding.wrong - len(finding.problems):,} more")
    return not any(finding.wrong for finding in findings)


def _say(level: Level, about: str, text: str) -> None:
    out.print(f"{_MARKS[level]}  {escape(about)}: {escape(text)}", highlight=False, soft_wrap=True)
