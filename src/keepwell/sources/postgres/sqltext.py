"""A database, or chosen tables of it, as SQL text that psql accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from keepwell.core.errors import Interrupted
from keepwell.core.newfile import new_file
from keepwell.core.streams import Context, Facts, Streams
from keepwell.sources.base import RestoreReport
from keepwell.sources.postgres import archive
from keepwell.sources.postgres.dump import GLOBALS, POST_DATA, PRE_DATA, SCHEMA
from keepwell.sources.postgres.programs import clients
from keepwell.sources.postgres.selection import Selection, select


def write_sql(
    facts: Facts, streams: Streams, path: Path, tables: tuple[str, ...], context: Context, folder: Path
) -> RestoreReport:
    """Write the new file `path`: everything, or the chosen tables with what they need. Roles are not in it.

    Raises TargetNotEmpty, UsageError, Damaged, SourceError, and ProgramMissing (chosen tables need pg_restore).
    """
    report = RestoreReport()
    started = context.clock.monotonic()
    if tables:
        text = _chosen(facts, streams, tables, folder, report)
    else:
        names = [name for name in facts["streams"] if name not in (GLOBALS, SCHEMA)]
        text = (block for name in names for block in streams.read(name))
        report.tables = {name: table["rows"] for name, table in facts["tables"].items()}
    task = f"{facts['database']}: SQL"
    context.progress.begin(task)
    with new_file(path) as file:
        for block in text:
            if context.cancelled():
                raise Interrupted("the restore was interrupted", hint="Nothing was written; start it again.")
            file.write(block)
            report.bytes += len(block)
            context.progress.advance(task, len(block))
    context.progress.end(task)
    report.files = 1
    report.seconds["sql"] = context.clock.monotonic() - started
    return report


def _chosen(
    facts: Facts, streams: Streams, tables: tuple[str, ...], folder: Path, report: RestoreReport
) -> Iterator[bytes]:
    programs = clients(int(facts["dump_version"].split(".")[0]))
    stored = archive.fetch(streams, folder)
    selection = select(facts, archive.entries(programs, stored), tables)
    chosen = archive.write_list(selection.entries, folder)
    report.warnings += selection.warnings
    report.tables = {name: facts["tables"][name]["rows"] for name in selection.tables}
    return _text(
        facts, streams, selection, lambda section: archive.text(programs, stored, chosen, f"--section={section}")
    )


def _text(
    facts: Facts, streams: Streams, selection: Selection, section: Callable[[str], Iterator[bytes]]
) -> Iterator[bytes]:
    yield from section(PRE_DATA)
    for name in selection.tables:
        table = facts["tables"][name]
        yield from streams.read(table["stream"], table["offset"], table["length"])
        yield b"\n"
    for name in selection.sequences:
        last, called, _ = facts["sequences"][name]
        quoted = name.replace("'", "''")
        yield f"SELECT pg_catalog.setval('{quoted}', {last}, {str(called).lower()});\n".encode()
    yield b"\n"
    yield from section(POST_DATA)
