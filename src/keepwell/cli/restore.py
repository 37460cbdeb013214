"""`keepwell restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from keepwell.cli.backup import INCOMPLETE
from keepwell.cli.output import Output
from keepwell.cli.session import Session
from keepwell.cli.words import many, span
from keepwell.core.units import show_size


def run(
    ctx: typer.Context,
    backup: Annotated[str, typer.Argument(metavar="BACKUP")],
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this source; needed where a database goes to a server.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="Where to: a new folder or file; for PostgreSQL an empty database, as env:NAME, file:PATH or a URL "
            "without password.",
        ),
    ] = None,
    to_new_database: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="PostgreSQL: into a new database of this name on the source's own server."),
    ] = None,
    table: Annotated[
        list[str] | None, typer.Option(metavar="SCHEMA.TABLE", help="Only this table. Repeatable.")
    ] = None,
    path: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Files: only this file or folder. Repeatable.")
    ] = None,
    sql: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Databases: write SQL into this new file instead.")
    ] = None,
) -> int:
    r"""Bring data back, into a new place. Nothing is ever overwritten.

    Without --source all sources of the backup go into the folder --to, each below its own name (a PostgreSQL database
    as SQL text, unless --to-new-database is given too). Exits 3 when one of them could not be brought back and the
    others were.

    \b
    keepwell restore production@proven --source uploads --to /srv/app/uploads.restored
    keepwell restore production@proven --source app --to-new-database leads_restored
    keepwell restore production@latest --source app --table public.leads --sql leads.sql
    """
    from keepwell.operations.restore import RestoreRequest, restore

    session: Session = ctx.obj
    request = RestoreRequest(
        backup=backup,
        source=source,
        to=to,
        to_new_database=to_new_database,
        tables=tuple(table or ()),
        paths=tuple(path or ()),
        sql=sql,
    )
    with session.context() as context:
        result = restore(session.load(), request, context)
    document = result.json()
    session.output.document(document)
    _tell(session.output, document)
    return 0 if result.clean else INCOMPLETE


def _tell(output: Output, document: dict[str, Any]) -> None:
    output.done(f"Restored from {output.style(document['backup'], 'bold')}:")
    for name, source in document["sources"].items():
        if source["status"] != "complete":
            output.say(f"  {name}: NOT RESTORED: {source['error']}")
            if source["hint"]:
                output.say(f"    → {source['hint']}")
            continue
        facts = [show_size(source["bytes"])]
        if tables := source.get("tables"):
            facts.append(f"{many(len(tables), 'table')}, {many(sum(tables.values()), 'row')}")
        if source.get("files"):
            facts.append(many(source["files"], "file"))
        output.done(f"  {name} → {source['to']}  ({', '.join(facts)})")
        for text in source.get("warnings") or []:
            output.warn(f"{name}: {text}")
    for name, reason in document["missing"].items():
        output.say(f"  {name}: not in this backup: {reason}")
    output.done(f"  in {span(float(document['seconds']))}")
