"""`keepwell wal fetch`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from keepwell.cli.session import Session
from keepwell.core.units import show_size


def run(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The file that is wanted, as PostgreSQL says it with %f.")
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Where to put it: %p.")],
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which source's log it is; needed where there are several.")
    ] = None,
    environment: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment of the source, where several have it.")
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(metavar="NUMBER", help="The cluster's system identifier.  [default: of the cluster here]"),
    ] = None,
) -> int:
    r"""Bring one segment of the log back, for restore_command.

    \b
    restore_command = 'keepwell wal fetch %f %p --source app --policy /etc/keepwell/keepwell.toml'

    Exits 1 only where the log has its end: PostgreSQL then becomes usable. Whatever else is wrong (the store does not answer, log
    is missing or damaged, there is no reader key) ends the command by a signal, so that PostgreSQL stops instead.
    """
    from keepwell.cli.fatal import end_of_log
    from keepwell.core import walnote
    from keepwell.operations.wal_fetch import FetchRequest, fetch

    session: Session = ctx.obj
    caller = walnote.caller_of(session.args[2:]) if session.args[:2] == ["wal", "fetch"] else None
    known = tuple(caller[0]) if caller and len(caller[1]) == 1 else ()
    with session.context() as context:
        result = fetch(session.load(), FetchRequest(name, target, source, environment, system, known), context)
    session.output.document(result.json())
    for remark in result.remarks:
        session.output.warn(remark)
    if not result.found:
        return end_of_log()
    if sys.stdout.isatty():
        session.output.done(f"{name}: {show_size(result.log)} of log.")
    return 0
