"""`keepwell wal push`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from keepwell.cli.session import Session
from keepwell.cli.words import many
from keepwell.core.units import show_size


def run(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The file, as PostgreSQL says it with %p.")],
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which source's log it is; needed where there are several.")
    ] = None,
    environment: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment of the source, where several have it.")
    ] = None,
) -> None:
    r"""Store one finished segment of the log, for archive_command.

    \b
    archive_mode = on
    archive_command = 'keepwell wal push %p --source app --policy /etc/keepwell/keepwell.toml'

    Returns once the vault has it for good. The same file again is no error; another file under the same name is refused. What
    else the server has ready is stored along, so that the next calls are answered at once.
    """
    import contextlib

    from keepwell.core import walnote
    from keepwell.operations.record import due_today, recorded
    from keepwell.operations.wal_push import PushRequest, push

    session: Session = ctx.obj
    caller = walnote.caller_of(session.args[2:]) if session.args[:2] == ["wal", "push"] else None
    loaded = session.load()
    with session.context() as context, contextlib.ExitStack() as stack:
        request = PushRequest(path, source, environment, tuple(caller[0]) if caller and len(caller[1]) == 1 else ())
        # One entry a day: the server calls this for every segment. None of them may stop the server's archiving.
        if due_today(context, f"wal push {loaded.path} {environment} {source}"):
            stack.enter_context(recorded(loaded, context, "wal push", environment, strict=False, log=False))
        result = push(loaded, request, context)
    session.output.document(result.json())
    for remark in result.remarks:
        session.output.warn(remark)
    if sys.stdout.isatty():  # the server writes whatever it is told into its log
        ahead = f", and {many(len(result.ahead), 'further file')}" if result.ahead else ""
        done = "is stored" if result.stored else "was stored already"
        session.output.done(f"{result.name} ({show_size(result.bytes)}) {done}{ahead}.")
