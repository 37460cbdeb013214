"""`keepwell key list`."""

from __future__ import annotations

import typer

from keepwell.cli.session import Session


def run(ctx: typer.Context) -> None:
    """List the key slots of the vault: what opens it, and how far."""
    from keepwell.operations.keys import key_list

    session: Session = ctx.obj
    found = key_list(session.load())
    session.output.document([entry.json() for entry in found])
    session.output.table(
        ["SLOT", "KIND", "ROLE", "CREATED", "LABEL", ""],
        [
            [e.slot.id, e.slot.kind, e.slot.role, e.slot.created, e.slot.label, "in use" if e.in_use else ""]
            for e in found
        ],
    )
