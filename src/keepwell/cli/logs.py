"""`keepwell logs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli.session import Session
from keepwell.cli.words import span

if TYPE_CHECKING:
    from keepwell.cli.output import Output

_TOLD = ("time", "level", "event")
_STYLES = {"warning": "yellow", "error": "red"}


def run(
    ctx: typer.Context,
    wanted: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="Its id, or latest, or production@latest.  [default: list them]"),
    ] = None,
    environment: Annotated[str | None, typer.Option(metavar="NAME", help="List only this one's.")] = None,
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="List at most so many, the newest.")] = 20,
) -> None:
    """What runs said, also those that failed: their logs are in the vault, for as long as [audit] keep says."""
    from keepwell.operations.auditing import run_log, runs

    session: Session = ctx.obj
    output, loaded = session.output, session.load()
    with session.context() as context:
        if wanted is not None:
            said = run_log(loaded, context, wanted)
            output.document(said.json() | {"lines": list(said.lines)})
            for line in said.lines:
                _tell(output, line)
            return
        found = runs(loaded, context, environment=environment, last=last)
    output.document([entry.json() for entry in found])
    if not found:
        output.say("There are no logs of runs.")
        return
    rows = []
    for entry in found:
        about = entry.json()
        took = span(float(about["seconds"])) if about["seconds"] is not None else ""
        rows.append([about["run"], about["time"], entry.action, about["environment"] or "-", entry.result, took])
    output.table(["RUN", "BEGAN", "ACTION", "ENVIRONMENT", "RESULT", "TOOK"], rows, right=(5,))


def _tell(output: Output, line: dict[str, Any]) -> None:
    level = str(line.get("level", "info"))
    more = "  ".join(
        f"{key}={' '.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in line.items()
        if key not in _TOLD and value not in (None, "", {}, [])
    )
    text = f"{line.get('time', '')}  {level:<7}  {line.get('event', '')}" + (f"  {more}" if more else "")
    output.say(output.style(text, _STYLES[level]) if level in _STYLES else text)
