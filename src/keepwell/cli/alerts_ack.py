"""`keepwell alerts ack`."""

from __future__ import annotations

from typing import Annotated

import typer

from keepwell.cli.alerts_common import document
from keepwell.cli.session import Session


def run(
    ctx: typer.Context,
    alert: Annotated[
        str, typer.Argument(metavar="ALERT", help="Its key, a rule, an environment, or a pattern: '*:production*'.")
    ],
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="What you are doing about it.")] = "",
) -> None:
    """Say that you are on it: no reminders and no escalation, until it gets worse or is over."""
    from keepwell.operations.record import recorded
    from keepwell.watch.answers import acknowledged

    session: Session = ctx.obj
    loaded = session.load()
    # People answer alerts when the store is down, too.
    with session.context() as context, recorded(loaded, context, "alerts ack", strict=False, log=False) as record:
        found = acknowledged(loaded, context, alert, note)
        record.ended("done", details={"alerts": [entry.key for entry in found], "note": note})
    session.output.document([document(entry) for entry in found])
    for entry in found:
        session.output.done(f"Acknowledged: {entry.key} ({entry.acknowledged})")
