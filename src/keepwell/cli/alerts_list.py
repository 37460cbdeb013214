"""`keepwell alerts list`."""

from __future__ import annotations

from typing import Annotated

import typer

from keepwell.cli.alerts_common import document, tell
from keepwell.cli.session import Session
from keepwell.core.clock import iso


def run(
    ctx: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Also what waits to be told, and what is over (90 days).")
    ] = False,
) -> None:
    """The open alerts, as the last look left them, and what is silenced.

    To look now: keepwell watch --once.
    """
    from keepwell.watch.answers import listed, silences

    session: Session = ctx.obj
    loaded = session.load()
    with session.context() as context:
        now = context.clock.now()
        found, silent = listed(loaded, everything=everything), silences(loaded, context)
    session.output.document([document(alert) for alert in found])
    tell(session.output, found, now)
    if not found:
        session.output.say("No alert is open.")
    for entry in silent:
        session.output.say(f"silenced until {iso(entry.until)}: {entry.pattern}  ({entry.by})")
