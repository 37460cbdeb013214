"""`keepwell audit export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from keepwell.cli.audit_list import SINCE, UNTIL
from keepwell.cli.session import Session
from keepwell.cli.words import many


def run(
    ctx: typer.Context,
    since: SINCE = None,
    until: UNTIL = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="Into this new file.  [default: standard output]")
    ] = None,
) -> int:
    """Write the entries of the audit log as JSON lines, oldest first: for other systems, or to keep them longer.

    With --json one list instead. An entry that cannot be read is a line that says so, and then it exits 1.
    """
    from keepwell.core.newfile import new_file
    from keepwell.operations.auditing import Altered, Window, entries

    session: Session = ctx.obj
    output, loaded = session.output, session.load()
    with session.context() as context:
        found = list(entries(loaded, context, Window.of(since, until, context.clock.now())))
    documents = [entry.json() for entry in found]
    text = "".join(json.dumps(document, sort_keys=True) + "\n" for document in documents)
    output.document(documents)
    if to is not None:
        with new_file(to) as file:
            file.write(text.encode())
        output.done(f"Wrote {many(len(documents), 'entry', 'entries')} to {to}.")
    else:
        output.say(text.removesuffix("\n"))
    altered = [entry for entry in found if isinstance(entry, Altered)]
    for entry in altered:
        output.warn(f"entry {entry.number} was altered: {entry.problem}")
    return 1 if altered else 0
