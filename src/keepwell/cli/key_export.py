"""`keepwell key export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keepwell.cli.keys_common import about, checked_role, report_added
from keepwell.cli.session import Session


def run(
    ctx: typer.Context,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The new key file; must not exist.")],
    role: Annotated[str, typer.Option(metavar="ROLE", help="writer: back up, but not read. reader: everything.")] = (
        "writer"
    ),
    label: Annotated[str, typer.Option(metavar="TEXT", help="What it is for; everybody may see this.")] = "",
) -> None:
    """Write a new key file, of a writer unless told otherwise.

    A host with a writer key backs up, deduplicates and lists, but cannot read data back: whoever breaks into it
    does not get the backups. The file opens its own slot, which `keepwell key remove` takes away.
    """
    from keepwell.operations.keys import key_add, refuse_existing_key
    from keepwell.operations.record import recorded

    session: Session = ctx.obj
    wanted = checked_role(role)
    refuse_existing_key(to)
    loaded = session.load()
    with session.context() as context, recorded(loaded, context, "key export", log=False) as record:
        added = key_add(loaded, to, clock=context.clock, role=wanted, label=label)
        record.ended("done", details=about(added))
    report_added(session.output, added)
