"""Restoring: the whole database, chosen tables, or SQL text."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from keepwell.core.errors import UsageError
from keepwell.core.streams import Context, Facts, Streams
from keepwell.sources.base import RestoreReport, RestoreRequest
from keepwell.sources.postgres.load import Restore
from keepwell.sources.postgres.spec import Target


def restore(
    facts: Facts, streams: Streams, target: Target | None, request: RestoreRequest, context: Context
) -> RestoreReport:
    if request.paths:
        raise UsageError("a PostgreSQL database has tables, not paths", hint="Choose tables with --table.")
    if target is None:
        raise UsageError("a restore needs a database to write to", hint="Name it with --to.")
    with scratch(context) as folder:
        work = Restore(facts, streams, target, context, folder)
        try:
            work.prepare()
            work.schema()
            work.rows(list(facts["tables"]))
            work.keys()
            work.statistics()
        finally:
            work.close()
        return work.report


@contextlib.contextmanager
def scratch(context: Context) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="keepwell-postgres-", dir=context.work))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
