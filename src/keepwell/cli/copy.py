"""`keepwell copy`."""

from __future__ import annotations

from typing import Annotated

import typer

from keepwell.cli.backup import INCOMPLETE
from keepwell.cli.session import Session
from keepwell.cli.words import many, span
from keepwell.core.units import show_size


def run(
    ctx: typer.Context,
    name: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...")] = None,
    environment: Annotated[str | None, typer.Option(metavar="NAME", help="Only backups of this environment.")] = None,
) -> int:
    """Bring the copies of the vault up to date: all, or those that are named.

    What is in the vault goes to the other store as it is, encrypted, and is read back there. An interrupted copy goes on where
    it was. Exits 3 when some backup or some copy could not be brought up to date and others were.
    """
    from keepwell.operations.copy import CopyRequest, copy
    from keepwell.watch.runs import ending_of_copy, watched

    session: Session = ctx.obj
    output, loaded = session.output, session.load()
    one = name[0] if name and len(name) == 1 else None
    with session.context() as context, watched(loaded, context, "copy", one) as run:
        result = copy(loaded, CopyRequest(tuple(name or ()), environment), context)
        run.ended(ending_of_copy(result))
    output.document(result.json())
    for title, outcome in result.copies.items():
        if outcome.error:
            output.say(f"{title}: NOT UP TO DATE: {outcome.error}")
            if outcome.hint:
                output.say(f"  → {outcome.hint}")
            continue
        report = outcome.report
        output.done(
            f"{title}: {many(len(report.backups), 'backup')} copied ({show_size(report.bytes)}), "
            f"{report.there} there already  → {outcome.store}"
        )
        for backup, reason in report.failed.items():
            output.say(f"  {backup} was NOT copied: {reason}")
    output.done(f"  in {span(result.seconds)}")
    return 0 if result.clean else INCOMPLETE
