"""`keepwell key add`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keepwell.cli.ask import new_passphrase
from keepwell.cli.keys_common import about, checked_role, report_added
from keepwell.cli.session import Session
from keepwell.core.errors import UsageError


def run(
    ctx: typer.Context,
    to_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Make a new key file here.")] = None,
    passphrase_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Take the passphrase from this environment variable instead of asking."),
    ] = None,
    role: Annotated[str, typer.Option(metavar="ROLE", help="reader: everything. writer: back up, but not read.")] = (
        "reader"
    ),
    label: Annotated[str, typer.Option(metavar="TEXT", help="What it is for; everybody may see this.")] = "",
) -> None:
    """Add a way into the vault: a passphrase (asked for twice), or a new key file.

    No data is written again. Keep a second reader away from this machine: without any, the backups are lost.
    """
    from keepwell.operations.keys import key_add, refuse_existing_key
    from keepwell.operations.record import recorded

    session: Session = ctx.obj
    wanted = checked_role(role)
    if to_file is not None and passphrase_env is not None:
        raise UsageError("--to-file and --passphrase-env are two kinds of key", hint="Add them one after the other.")
    loaded = session.load()
    if to_file is not None:
        refuse_existing_key(to_file)
    credential = to_file if to_file is not None else new_passphrase(passphrase_env)
    with session.context() as context, recorded(loaded, context, "key add", log=False) as record:
        added = key_add(loaded, credential, clock=context.clock, role=wanted, label=label)
        record.ended("done", details=about(added))
    report_added(session.output, added)
