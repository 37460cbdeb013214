"""`keepwell export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keepwell.cli.session import Session
from keepwell.core.units import show_size


def run(
    ctx: typer.Context,
    backup: Annotated[str, typer.Argument(metavar="BACKUP")],
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where to; existing files are not overwritten.")],
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which source; may be left out where there is one.")
    ] = None,
) -> int:
    r"""Write a copy that needs no keepwell: database.sql.gz, metadata.json and a checksum.

    \b
    keepwell export production@proven --source app --to /tmp/leads
    cd /tmp/leads && sha256sum -c *.sha256
    gunzip -c database.sql.gz | psql leads_restored

    The copy is NOT encrypted.
    """
    from keepwell.operations.export import ExportRequest, export
    from keepwell.operations.record import recorded

    session: Session = ctx.obj
    output, loaded, environment = session.output, session.load(), backup.partition("@")[0].partition("/")[0]
    with session.context() as context, recorded(loaded, context, "export", environment) as record:
        result = export(loaded, ExportRequest(backup, source, to), context)
        record.ended("done", details={"backup": result.backup, "file": str(result.file), "sha256": result.checksum})
    document = result.json()
    output.document(document)
    output.done(f"Wrote {document['file']} ({show_size(document['size'])}).")
    output.done(f"  sha256 {document['checksum']}")
    output.remind("This copy is not encrypted.")
    return 0
