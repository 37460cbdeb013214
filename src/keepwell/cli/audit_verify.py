"""`keepwell audit verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from keepwell.cli.session import Session
from keepwell.cli.words import many


def run(
    ctx: typer.Context,
    head: Annotated[
        str | None,
        typer.Option(metavar="NUMBER:SHA256", help="An entry that you wrote down: it must still be there, unchanged."),
    ] = None,
) -> int:
    """Read the audit log: is any entry changed, dropped, reordered, or cut off at the end?

    Its end is held against the last entry that this machine has seen, against those that backups name, against the copies
    of the vault, and against --head. Exits 1 when anything is wrong.
    """
    from keepwell.operations.auditing import verify

    session: Session = ctx.obj
    output, loaded = session.output, session.load()
    with session.context() as context:
        result = verify(loaded, context, head)
    output.document(result.json())
    verdict = result.verdict
    for finding in verdict.findings:
        output.fail(f"{finding.what}: {finding.problem}")
    for note in verdict.notes:
        output.note(note)
    if not result.passed:
        output.say(
            f"The audit log of {result.store} is NOT what was written: {many(len(verdict.findings), 'finding')}."
        )
        output.say("  → Find out who can write and delete in the store, take these rights away, and lock its objects.")
        output.say("    A copy of the vault may have the entries: `keepwell check --repair` puts missing ones back.")
        return 1
    if not verdict.entries:
        output.done(f"The audit log of {result.store} has no entries yet.")
        return 0
    began = f" from {verdict.first} on (older ones were pruned)" if verdict.first > 1 else ""
    output.done(f"The audit log is whole: {many(verdict.entries, 'entry', 'entries')}{began}.")
    if verdict.anchors:
        output.done(f"  Held against {many(verdict.anchors, 'place')} that had seen it.")
    else:
        output.warn(
            "nothing on this machine, in backups or copies has seen it: that its end was cut off would not show"
        )
    output.done(f"  Head: {verdict.head.number}:{verdict.head.sha256}")
    return 0
