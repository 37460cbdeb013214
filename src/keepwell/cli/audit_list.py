"""`keepwell audit list`."""

from __future__ import annotations

from typing import Annotated

import typer

from keepwell.cli.session import Session
from keepwell.cli.words import span

SINCE = Annotated[
    str | None, typer.Option(metavar="TIME", help="From then on: 2026-11-22, 2026-11-22T02:00:00Z, or a time ago: 7d.")
]
UNTIL = Annotated[str | None, typer.Option(metavar="TIME", help="Before then.")]


def run(
    ctx: typer.Context,
    environment: Annotated[str | None, typer.Argument(metavar="[ENVIRONMENT]", help="Only this one's.")] = None,
    since: SINCE = None,
    until: UNTIL = None,
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="At most so many, the newest.")] = 50,
) -> int:
    """Who did what, from where, and what came of it; oldest first.

    `unknown` means that nobody said how it ended: the process died, or the store did not take its word. Exits 1 when an entry
    cannot be read.
    """
    from keepwell.operations.auditing import Altered, Window, actions

    session: Session = ctx.obj
    output, loaded = session.output, session.load()
    with session.context() as context:
        window = Window.of(since, until, context.clock.now())
        found = actions(loaded, context, window, environment=environment, last=None if since else last)
    output.document([entry.json() for entry in found])
    rows = []
    for entry in found:
        if isinstance(entry, Altered):
            output.fail(f"entry {entry.number} was altered: {entry.problem}", "`keepwell audit verify` tells more.")
            continue
        about = entry.json()
        who, place = about["who"] or {}, about["from"] or {}
        name = f"{who.get('sudo_user')} as {who.get('user')}" if who.get("sudo_user") else who.get("user", "?")
        took = span(float(about["seconds"])) if about["seconds"] is not None else ""
        what = " ".join(filter(None, [about["action"], about["environment"]]))
        where = " ".join(filter(None, [place.get("host"), f"({place['address']})" if place.get("address") else ""]))
        rows.append([str(entry.begun.number), about["time"], what, f"{name}@{where}", about["by"], entry.outcome, took])
    if rows:
        output.table(["ENTRY", "TIME", "ACTION", "WHO", "BY", "OUTCOME", "TOOK"], rows, right=(0, 6))
    elif not found:
        output.say("Nothing was done in that time.")
    return 1 if any(isinstance(entry, Altered) for entry in found) else 0
