"""Reading a database: one online copy, then everything else from the copy, so production is held up once."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blake3 import blake3

from keepwell.core.errors import Interrupted, SourceError
from keepwell.core.streams import Context, Facts, Sink
from keepwell.core.units import show_size
from keepwell.core.workfolder import WorkFolder
from keepwell.sources.sqlite import opening
from keepwell.sources.sqlite.schema import describe
from keepwell.sources.sqlite.spec import Spec
from keepwell.sources.sqlite.tables import digest_table, is_internal, stand_in_collations, stored_tables

STREAM = "database"
_BLOCK = 1 << 20
_HEADER_VERSION = 18
"""Offset of the byte that is 2 for a database in WAL mode."""


def capture(spec: Spec, sink: Sink, context: Context) -> Facts:
    """Read the database into the stream `database`. Raises SourceError; a missing or empty file is one.

    The copy is taken through SQLite's online backup in one step: consistent whatever writers do. A database
    in WAL mode never waits; in the other modes writers wait while the copy is made. The copy needs as much
    temporary space as the database. Facts, besides the common ones: `digest` (BLAKE3 of the stream), `size`,
    `page_size`, `pages`, `encoding`, `user_version`, `application_id`, `auto_vacuum`, `journal_mode`, `mode`
    and `owner` of the file, `objects`, `schema` (digest), `internal` (SQLite's own tables), `foreign_keys`.
    """
    size = opening.require_database_file(spec.path)
    found = spec.path.stat()
    with _scratch(context) as folder:
        copy = folder / "copy.db"
        _require_space(spec.path, size, folder)
        _copy(spec.path, copy, context)
        facts: Facts = {
            "type": "sqlite",
            "database": spec.path.name,
            "version": sqlite3.sqlite_version,
            "streams": [STREAM],
            "mode": found.st_mode & 0o7777,
            "owner": [found.st_uid, found.st_gid],
            **_send(copy, sink, context, spec.path.name),
        }
        try:
            facts |= describe_copy(copy, context)
        except SourceError as error:
            # The copy is private; what the user has is the source.
            raise SourceError(error.message.replace(str(copy), str(spec.path)), hint=error.hint) from error
    facts["warnings"] = _warnings(facts)
    return facts


def describe_copy(copy: Path, context: Context) -> dict[str, Any]:
    """Facts of a database that nobody else has open."""
    with opening.reading(copy, private=True) as connection:
        stand_in_collations(connection)
        facts = describe(connection)
        tables: dict[str, Any] = {}
        internal: dict[str, Any] = {}
        task = "digests of tables"
        names = stored_tables(connection)
        context.progress.begin(task, len(names), "tables")
        for name in names:
            _stop_if_cancelled(context)
            (internal if is_internal(name) else tables)[name] = digest_table(
                connection, name, lambda _rows: _stop_if_cancelled(context)
            )
            context.progress.advance(task)
        context.progress.end(task)
    return facts | {"tables": tables, "internal": internal}


def _copy(source: Path, copy: Path, context: Context) -> None:
    deadline = context.clock.monotonic() + opening.BUSY_SECONDS

    def between(status: int, _remaining: int, _total: int) -> None:
        _stop_if_cancelled(context)
        opening.wait_turn(status, deadline, context)

    with opening.reading(source) as connection:
        # Says "not a database" and the like more clearly than the backup does.
        opening.patiently(lambda: connection.execute("PRAGMA schema_version").fetchone(), context)
        with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as into:
            # A crash loses the copy and nothing else, so it needs neither a journal nor fsync.
            into.execute("PRAGMA journal_mode=OFF")
            into.execute("PRAGMA synchronous=OFF")
            try:
                # In one step: in several, every write in between starts the copy again, for ever under load.
                connection.backup(into, pages=-1, progress=between, sleep=0)
            except BlockingIOError:
                raise opening.still_busy(source) from None


def _send(copy: Path, sink: Sink, context: Context, task: str) -> dict[str, Any]:
    hasher = blake3()
    header = b""
    writer = sink.stream(STREAM, "pages")
    size = copy.stat().st_size
    context.progress.begin(task, size)
    buffer = memoryview(bytearray(_BLOCK))
    with copy.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            _stop_if_cancelled(context)
            header = header or bytes(buffer[:100])
            hasher.update(buffer[:count])
            writer.write(buffer[:count])
            context.progress.advance(task, count)
    writer.close()
    context.progress.end(task)
    journal = "wal" if header[_HEADER_VERSION] == 2 else "delete"
    return {"bytes": size, "size": size, "digest": hasher.hexdigest(), "journal_mode": journal}


def _warnings(facts: Facts) -> list[str]:
    warnings = []
    if not facts["tables"]:
        warnings.append("the database has no tables")
    for keys, count in facts["foreign_keys"].items():
        what = f"{count} rows have no parent" if count >= 0 else "the definition does not fit its parent table"
        warnings.append(f"foreign key {keys}: {what}; kept as it is")
    return warnings


@contextlib.contextmanager
def _scratch(context: Context) -> Iterator[Path]:
    with WorkFolder("sqlite", context.work) as folder:
        yield folder


def _require_space(source: Path, size: int, folder: Path) -> None:
    needed = size
    with contextlib.suppress(FileNotFoundError):
        needed += Path(f"{os.fspath(source)}-wal").stat().st_size
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SourceError(
            f"the copy of {source} needs {show_size(needed)} in {folder.parent}, where {show_size(free)} are free",
            hint="Free some space there, or set TMPDIR to a larger disk.",
        )


def _stop_if_cancelled(context: Context) -> None:
    if context.cancelled():
        raise Interrupted("the backup was interrupted", hint="Nothing was changed; start it again.")
