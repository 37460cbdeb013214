"""`keepwell list`."""

from __future__ import annotations

from typing import Annotated

import typer

from keepwell.cli.session import Session
from keepwell.core.units import show_size


def run(
    ctx: typer.Context,
    environment: Annotated[str | None, typer.Argument(metavar="[ENVIRONMENT]", help="Only this one.")] = None,
) -> None:
    """List the backups in the vault, oldest first.

    `proven` means: restored into a sandbox and found equal (`keepwell verify`).
    """
    from keepwell.core.progress import Silent
    from keepwell.operations.listing import list_backups

    session: Session = ctx.obj
    output = session.output
    silent = Silent()
    found = list_backups(session.load(), environment, silent)
    for text in silent.warnings:
        output.warn(text)
    output.document([entry.json() for entry in found])
    if not found:
        output.say("There are no backups yet; `keepwell backup` takes one.")
        return
    output.table(
        ["BACKUP", "TIER", "STATUS", "SIZE", "STORED", "PROVEN"],
        [
            [
                entry.backup,
                entry.tier,
                entry.status,
                _size(entry.bytes),
                _size(entry.stored),
                "proven" if entry.proven else "-",
            ]
            for entry in found
        ],
        right=(3, 4),
    )
    for entry in found:
        if entry.status == "damaged":
            output.warn(f"{entry.backup} is damaged: {entry.damage}")
        elif entry.damage:
            output.warn(f"{entry.backup}: {entry.damage}")


def _size(size: int | None) -> str:
    return "-" if size is None else show_size(size)
