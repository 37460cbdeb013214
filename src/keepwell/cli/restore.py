"""`keepwell restore`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from keepwell.cli.backup import INCOMPLETE
from keepwell.cli.output import Output
from keepwell.cli.session import Session
from keepwell.cli.words import many, span
from keepwell.core.clock import from_iso
from keepwell.core.errors import UsageError
from keepwell.core.units import show_size
from keepwell.core.wal import parse_lsn
from keepwell.sources.base import Recovery


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
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Physical: recover to this moment, with its time zone: '2026-11-22 14:30:00+00'."
        ),
    ] = None,
    lsn: Annotated[
        str | None, typer.Option(metavar="LSN", help="Physical: recover to this position in the log: 0/16B3748.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="POINT", help="Physical: recover to this restore point (pg_create_restore_point)."),
    ] = None,
    immediate: Annotated[
        bool, typer.Option("--immediate", help="Physical: no further than to where the backup ended.")
    ] = False,
    timeline: Annotated[
        str,
        typer.Option(metavar="N", help="Physical: along this timeline: latest, current (the backup's) or a number."),
    ] = "latest",
    tablespace: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="Physical: put the tablespace at OLD into the directory NEW. Repeatable."),
    ] = None,
    delta: Annotated[
        bool,
        typer.Option("--delta", help="Physical: into a directory with an older state; only what differs is rewritten."),
    ] = False,
    start: Annotated[
        bool, typer.Option("--start", help="Physical: start the server there, and wait until it has recovered.")
    ] = False,
) -> int:
    r"""Bring data back, into a new place. Nothing is ever overwritten.

    Without --source all sources of the backup go into the folder --to, each below its own name (a PostgreSQL database
    as SQL text, unless --to-new-database is given too). Exits 3 when one of them could not be brought back and the
    others were.

    \b
    keepwell restore production@proven --source uploads --to /srv/app/uploads.restored
    keepwell restore production@proven --source app --to-new-database leads_restored
    keepwell restore production@latest --source app --table public.leads --sql leads.sql
    keepwell restore production --source main --to /srv/pg --at '2026-11-22 14:30:00+00' --start
    """
    from keepwell.operations.physical_restore import Wish
    from keepwell.operations.record import recorded
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
        wish=Wish(
            _recovery(at, lsn, name, timeline, immediate=immediate), _tablespaces(tablespace or ()), delta, start
        ),
    )
    loaded, environment = session.load(), backup.partition("@")[0].partition("/")[0]
    # Nothing may stand between people and their data, so that a log that does not take its entry is a warning here.
    with session.context() as context, recorded(loaded, context, "restore", environment, strict=False) as record:
        result = restore(loaded, request, context)
        places = {name: str(source.to) for name, source in result.sources.items()}
        record.ended("done" if result.clean else "warnings", details={"backup": result.backup, "to": places})
    document = result.json()
    session.output.document(document)
    _tell(session.output, document)
    return 0 if result.clean else INCOMPLETE


def _recovery(at: str | None, lsn: str | None, name: str | None, timeline: str, *, immediate: bool) -> Recovery:
    """Raises UsageError for what cannot be read."""
    time = position = None
    if at is not None:
        try:
            time = from_iso(at)
        except ValueError:
            raise UsageError(
                f"--at {at!r} is no moment with a time zone", hint="Write it as --at '2026-11-22 14:30:00+00'."
            ) from None
    if lsn is not None:
        try:
            position = parse_lsn(lsn)
        except ValueError as error:
            raise UsageError(f"--lsn: {error}") from None
    return Recovery(time, position, name, immediate, timeline)


def _tablespaces(given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    found = []
    for text in given:
        old, equals, new = text.partition("=")
        if not equals or not old or not new:
            raise UsageError(
                f"--tablespace {text!r} is not OLD=NEW", hint="For example: --tablespace /mnt/fast=/srv/fast"
            )
        found.append((old, new))
    return tuple(found)


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
        if plan := source.get("recovery"):
            output.done(f"    {plan['reaches']}")
        if (rewritten := source.get("rewritten")) is not None:
            output.done(f"    {show_size(rewritten)} differed and were rewritten")
        if reached := source.get("reached"):
            time = f", the last transaction committed at {reached['time']}" if reached["time"] else ""
            output.done(f"    started, recovered to {reached['lsn']} on timeline {reached['timeline']}{time}")
        for text in source.get("warnings") or []:
            output.warn(f"{name}: {text}")
    for name, reason in document["missing"].items():
        output.say(f"  {name}: not in this backup: {reason}")
    output.done(f"  in {span(float(document['seconds']))}")
