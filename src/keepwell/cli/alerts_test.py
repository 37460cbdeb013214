"""`keepwell alerts test`."""

from __future__ import annotations

from typing import Annotated

import typer

from keepwell.cli.session import Session


def run(
    ctx: typer.Context,
    channels: Annotated[list[str] | None, typer.Argument(metavar="[CHANNEL]...", help="[default: all]")] = None,
) -> int:
    """Send a message through every channel of the policy, or through these. Exits 1 when one does not take it."""
    from keepwell.watch.answers import tried

    session: Session = ctx.obj
    with session.context() as context:
        found = tried(session.load(), context, channels or ())
    session.output.document([{"channel": t.channel, "sent": not t.error, "error": t.error or None} for t in found])
    for entry in found:
        if entry.error:
            session.output.fail(entry.error, entry.hint)
        else:
            session.output.done(f"Sent through {entry.channel}.")
    return 1 if any(entry.error for entry in found) else 0
