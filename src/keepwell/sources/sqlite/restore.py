"""Getting a database back: the whole file, chosen tables in a new file, or SQL text."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from keepwell.core.errors import Damaged, Interrupted, SourceError, UsageError
from keepwell.core.newfile import beside, new_file, publish, refuse_existing
from keepwell.core.streams import Buffer, Context, Facts, Streams
from keepwell.sources.base import RestoreReport, RestoreRequest
from keepwell.sources.sqlite.capture import STREAM
from keepwell.sources.sqlite.dump import write_sql
from keepwell.sources.sqlite.opening import reading
from keepwell.sources.sqlite.selection import belonging, keep_only, loose_ends
from keepwell.sources.sqlite.spec import Target
from keepwell.sources.sqlite.tables import digest_table, stand_in_collations

_COMPANIONS = ("-wal", "-shm", "-journal")


def restore(
    facts: Facts, streams: Streams, target: Target | None, request: RestoreRequest, context: Context
) -> RestoreReport:
    """Write the database to `target`, or SQL text to `request.sql`; the file appears whole or not at all.

    The whole database comes back byte for byte (a database in WAL mode is in WAL mode again). Chosen tables
    go into a new, compacted database, or as SQL, with their indexes and triggers; their rows are compared
    with the digests of the backup. Raises TargetNotEmpty, UsageError for a table that is not in the backup,
    Damaged where the bytes are not those of the backup, SourceError where the target cannot be written.
    """
    if request.paths:
        raise UsageError("a SQLite database has tables, not paths", hint="Choose tables with --table.")
    chosen = _chosen(facts, request.tables)
    place = request.sql or (target.path if target else None)
    if place is None:
        raise UsageError("a restore needs a path to write to", hint="Name a new file with --to.")
    refuse_existing(place)
    if not request.sql:
        for companion in _COMPANIONS:
            # SQLite would play a stale journal into the restored database and destroy it.
            refuse_existing(Path(f"{os.fspath(place)}{companion}"))
    report = RestoreReport()
    started = context.clock.monotonic()
    with _fetched(facts, streams, place, context) as database:
        report.seconds["read"] = context.clock.monotonic() - started
        if request.sql:
            with new_file(request.sql) as file:
                written = write_sql(database, file, chosen, lambda: _stop_if_cancelled(context))
            report.bytes = request.sql.stat().st_size
            report.tables = {name: rows for name, rows in written.items() if name in facts["tables"]}
        elif chosen is not None:
            with _selected(facts, database, chosen) as (smaller, warnings):
                report.bytes = smaller.stat().st_size
                _give_back_mode(smaller, facts, report)
                publish(smaller, place)
            report.warnings += warnings
            report.tables = {name: facts["tables"][name]["rows"] for name in chosen if name in facts["tables"]}
        else:
            report.bytes = facts["size"]
            _give_back_mode(database, facts, report)
            publish(database, place)
            report.tables = {name: table["rows"] for name, table in facts["tables"].items()}
    report.files = 1
    report.seconds["restore"] = context.clock.monotonic() - started - report.seconds["read"]
    return report


_BLOCK = 1 << 20


def fetch(facts: Facts, streams: Streams, into: Path, context: Context) -> None:
    """Write the stream to the new file `into`. Raises Damaged unless it has the size and digest of the backup.

    Pages that changed over many backups lie scattered in the vault, so they are written as they come.
    """
    task = f"{facts['database']}: restore"
    hasher = blake3()
    size = 0
    context.progress.begin(task, facts["size"])
    try:
        with into.open("x+b", buffering=0) as file:

            def put(parts: list[tuple[int, Buffer]]) -> None:
                _stop_if_cancelled(context)
                for place, block in parts:
                    done = 0
                    while done < len(block):
                        done += os.pwrite(file.fileno(), memoryview(block)[done:], place + done)
                context.progress.advance(task, sum(len(block) for _, block in parts))

            streams.scatter(STREAM, put)
            while block := file.read(_BLOCK):
                hasher.update(block)
                size += len(block)
    except OSError as error:
        raise SourceError(
            f"cannot write to {into.parent}: {error.strerror}", hint="Check the rights and the free space there."
        ) from error
    context.progress.end(task)
    if size != facts["size"] or hasher.hexdigest() != facts["digest"]:
        raise Damaged(
            f"the database {facts['database']} came out of the vault with other bytes than went in",
            hint="Nothing was written to the target. Run `keepwell check`, and restore an older backup or a copy.",
        )


@contextlib.contextmanager
def _fetched(facts: Facts, streams: Streams, place: Path, context: Context) -> Iterator[Path]:
    database = beside(place)
    try:
        fetch(facts, streams, database, context)
        yield database
    finally:
        database.unlink(missing_ok=True)


@contextlib.contextmanager
def _selected(facts: Facts, database: Path, chosen: set[str]) -> Iterator[tuple[Path, list[str]]]:
    smaller = beside(database)
    try:
        warnings = loose_ends(database, chosen)
        keep_only(database, chosen, smaller, wal=facts["journal_mode"] == "wal")
        with reading(smaller, private=True) as connection:
            stand_in_collations(connection)
            for name in sorted(chosen & facts["tables"].keys()):
                if digest_table(connection, name) != facts["tables"][name]:
                    raise Damaged(
                        f"the table {name} came back with other rows than were backed up",
                        hint="Nothing was written to the target. Restore the whole database, and report this.",
                    )
        yield smaller, warnings
    finally:
        for companion in ("", *_COMPANIONS):
            Path(f"{smaller}{companion}").unlink(missing_ok=True)


def _chosen(facts: Facts, wanted: tuple[str, ...]) -> set[str] | None:
    if not wanted:
        return None
    known = [
        name for name, (kind, _, _) in facts["objects"].items() if kind == "table" and name not in facts["internal"]
    ]
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.5) or sorted(known)[:10]
            raise UsageError(
                f"no table {name!r} in this backup of {facts['database']}",
                hint=f"There is {', '.join(near)}." if near else "The backup has no tables.",
            )
    return belonging(set(known), set(wanted), facts)


def _give_back_mode(file: Path, facts: Facts, report: RestoreReport) -> None:
    """Rights as they were, and the owner where this process may give files away."""
    try:
        if os.geteuid() == 0:
            os.chown(file, *facts["owner"])
        file.chmod(facts["mode"] & 0o777)
    except OSError as error:
        report.warnings.append(f"rights and owner of the file could not be set: {error.strerror}")


def _stop_if_cancelled(context: Context) -> None:
    if context.cancelled():
        raise Interrupted("the restore was interrupted", hint="Nothing was written to the target; start it again.")
