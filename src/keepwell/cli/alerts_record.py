"""`keepwell alerts record`."""

from __future__ import annotations

from typing import Annotated

import typer

from keepwell.cli.session import Session


def run(
    ctx: typer.Context,
    deed: Annotated[str, typer.Argument(metavar="drill|review|key", help="What was done.")],
    subject: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="drill: the environment; key: its slot (keepwell key list).")
    ] = None,
) -> None:
    """Record that a drill was held, the strategy was reviewed, or a key was fetched and tried."""
    from keepwell.operations.record import recorded
    from keepwell.watch.answers import record

    session: Session = ctx.obj
    loaded = session.load()
    with session.context() as context, recorded(loaded, context, "alerts record", strict=False, log=False):
        made = record(loaded, context, deed, subject)
    session.output.document(made)
    session.output.done(f"Recorded: {made['deed']} of {made['subject']}, by {made['by']}")
