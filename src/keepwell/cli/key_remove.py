"""`keepwell key remove`."""

from __future__ import annotations

from typing import Annotated

import typer

from keepwell.cli.keys_common import about
from keepwell.cli.session import Session


def run(
    ctx: typer.Context, slot: Annotated[str, typer.Argument(metavar="SLOT", help="As `key list` shows it.")]
) -> None:
    """Remove a key slot. The last one that can read is never removed.

    Whoever kept a copy of the vault's keys can still read what they can reach in the store
    (docs/why/keys.md): also take away their access there.
    """
    from keepwell.operations.keys import key_remove
    from keepwell.operations.record import recorded

    session: Session = ctx.obj
    loaded = session.load()
    with session.context() as context, recorded(loaded, context, "key remove", log=False) as record:
        removed = key_remove(loaded, slot)
        record.ended("done", details=about(removed))
    session.output.document(removed.json())
    session.output.done(f"Removed the {removed.slot.role} slot {removed.slot.id} ({removed.slot.kind}).")
    if removed.in_use:
        session.output.remind("This was the key in use: name another in [vault] key before the next run.")
