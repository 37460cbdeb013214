"""Restoring: the whole database, chosen tables, or SQL text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from keepwell.core.errors import UsageError
from keepwell.core.streams import Context, Facts, Streams
from keepwell.core.workfolder import WorkFolder
from keepwell.sources.base import RestoreReport, RestoreRequest
from keepwell.sources.postgres import archive
from keepwell.sources.postgres.load import Restore
from keepwell.sources.postgres.selection import select, wanted_tables
from keepwell.sources.postgres.spec import Target
from keepwell.sources.postgres.sqltext import write_sql


def restore(
    facts: Facts, streams: Streams, target: Target | None, request: RestoreRequest, context: Context
) -> RestoreReport:
    """Fill the database of `target`, or write SQL text to `request.sql`.

    The database is made (`target.create`) or must be empty; nothing is overwritten. Owners and privileges come back
    where the roles exist; what was refused is in the report's warnings. Chosen tables come with the types, sequences,
    indexes, … that they need. A partitioned table brings its partitions. Raises TargetNotEmpty, UsageError for a
    table that is not in the backup, ProgramMissing, SourceError, ProofFailed where rows are missing, Damaged.
    """
    if request.paths:
        raise UsageError("a PostgreSQL database has tables, not paths", hint="Choose tables with --table.")
    if request.tables:
        wanted_tables(facts, request.tables)
    with scratch(context) as folder:
        if request.sql:
            return write_sql(facts, streams, request.sql, request.tables, context, folder)
        if target is None:
            raise UsageError("a restore needs a database to write to", hint="Name it with --to.")
        work = Restore(facts, streams, target, context, folder)
        try:
            work.prepare()
            if request.tables:
                selection = select(facts, archive.entries(work.programs, work.archive), request.tables)
                work.report.warnings += selection.warnings
                work.schema(selection.entries)
                work.rows(selection.tables, rest=False)
                work.sequences(selection.sequences)
            else:
                work.schema()
                work.rows(list(facts["tables"]))
            work.keys()
            work.statistics()
        finally:
            work.close()
        return work.report


@contextlib.contextmanager
def scratch(context: Context) -> Iterator[Path]:
    with WorkFolder("postgres", context.work) as folder:
        yield folder
