"""`keepwell alerts silence`."""

from __future__ import annotations

from typing import Annotated

import typer

from keepwell.cli.session import Session
from keepwell.core.clock import iso
from keepwell.core.errors import UsageError
from keepwell.core.units import duration


def run(
    ctx: typer.Context,
    pattern: Annotated[
        str, typer.Argument(metavar="ALERT", help="A key, a rule, an environment, or a pattern: 'size-unusual:*'.")
    ],
    length: Annotated[str | None, typer.Option("--for", metavar="TIME", help="How long: 2h, 3d.")] = None,
    end: Annotated[bool, typer.Option("--end", help="End this silence now.")] = False,
) -> None:
    """Tell nobody of these alerts for a while (during a migration, say). They are still looked for, and listed."""
    from keepwell.operations.record import recorded
    from keepwell.watch.answers import end_silence, silence

    if (length is None) != end:
        raise UsageError("how long?", hint="keepwell alerts silence ALERT --for 2h, or --end to end it.")
    session: Session = ctx.obj
    loaded = session.load()
    with session.context() as context, recorded(loaded, context, "alerts silence", strict=False, log=False):
        if length is None:
            end_silence(loaded, context, pattern)
            session.output.document({"silence": pattern, "until": None})
            session.output.done(f"No longer silenced: {pattern}")
            return
        try:
            span = duration(length)
        except (ValueError, OverflowError) as error:
            raise UsageError(f"--for: {error}") from None
        made = silence(loaded, context, pattern, span)
    session.output.document({"silence": pattern, "until": iso(made.until)})
    session.output.done(f"Silenced until {iso(made.until)}: {pattern}")
