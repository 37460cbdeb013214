"""Whether the files that a restored database refers to are in the same backup. No file is restored for that."""

from __future__ import annotations

import contextlib
import posixpath
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from keepwell.core.errors import Interrupted, KeepwellError, StoreError, UnsupportedFormat
from keepwell.core.streams import Context, Facts, Streams
from keepwell.core.workfolder import WorkFolder
from keepwell.policy.references import Reference
from keepwell.proof.checks import CheckOutcome
from keepwell.sources.registry import column_of

NAMED = 10
_BATCH = 1000
_MOST_LINKS = 40

Lookup: TypeAlias = Callable[[str], tuple[Facts, Streams]]
"""The facts and streams of another source of the same backup. Raises KeepwellError where the backup does not have it."""
Found: TypeAlias = tuple[bytes, bytes | None]
"""A path from the root, and what it points to where it is a symbolic link."""


@dataclass(frozen=True)
class Missing:
    """Paths that are referred to and not there."""

    asked: int
    """Different paths."""
    count: int
    first: tuple[str, ...]
    """In order, at most `NAMED`."""


def check(reference: Reference, type_name: str, target: Any, lookup: Lookup, context: Context) -> CheckOutcome:
    """One reference of the policy, asked of the restored database. What cannot be looked at has not passed. Raises
    Interrupted, StoreError.
    """
    try:
        facts, streams = lookup(reference.source)
        values = column_of(type_name, target, reference.sql)
        with contextlib.closing(values):  # type: ignore[type-var]
            missing = look(values, files_of(facts, streams), context)
    except (Interrupted, StoreError):
        raise
    except KeepwellError as error:
        return CheckOutcome(reference.title, False, error.message)
    if not missing.count:
        return CheckOutcome(reference.title, True)
    more = missing.count - len(missing.first)
    names = ", ".join(missing.first) + (f" and {more} more" if more else "")
    return CheckOutcome(
        reference.title, False, f"{missing.count} of {missing.asked} files are not in {reference.source}: {names}"
    )


def look(values: Iterable[Any], found: Iterable[Found], context: Context) -> Missing:
    """Which values are not among what was found. Nulls and empty texts refer to nothing; a slash at the beginning, `./` and
    doubled slashes do not count. A folder is no file; a link is what it leads to. Memory does not grow with their number.
    """
    with WorkFolder("references", context.work) as work, contextlib.closing(_open(work)) as database:
        _fill(database, values, context)
        asked = _count(database)
        links = _strike(database, found, context, follow=asked > 0)
        if links and _count(database):
            _resolve(database, links)
        count = _count(database)
        first = [row[0] for row in database.execute("SELECT shown FROM wanted ORDER BY path LIMIT ?", (NAMED,))]
    return Missing(asked, count, tuple(first))


def files_of(facts: Facts, streams: Streams) -> Iterator[Found]:
    """Files, further names of files, and links. Raises Damaged; UnsupportedFormat for sources without files."""
    if facts["type"] == "files":
        from keepwell.sources.files.entries import SYMLINK, read_tree

        for entry in read_tree(streams):
            if entry.has_content or entry.type == SYMLINK:
                yield entry.path, entry.target if entry.type == SYMLINK else None
    elif facts["type"] == "bucket":
        from keepwell.sources.bucket.entries import read_objects

        for each in read_objects(streams):
            if not each.folder:
                yield each.name.encode("utf-8", "surrogateescape"), None
    else:
        raise UnsupportedFormat(f"a source of type {facts['type']} has no files that could be referred to")


def plain(value: Any) -> bytes:
    """The path that a value means; empty: none."""
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    path = posixpath.normpath(raw.lstrip(b"/")) if raw.strip(b"/") else b""
    return b"" if path == b"." else path


def _open(work: Path) -> sqlite3.Connection:
    database = sqlite3.connect(work / "paths.db", isolation_level=None)
    database.executescript(
        "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; CREATE TABLE files(path BLOB PRIMARY KEY) WITHOUT ROWID;"
        "CREATE TABLE wanted(path BLOB PRIMARY KEY, shown TEXT) WITHOUT ROWID; BEGIN;"
    )
    return database


def _fill(database: sqlite3.Connection, values: Iterable[Any], context: Context) -> None:
    for batch in _batches(values, context):
        paths = [(plain(value), value) for value in batch if value is not None]
        rows = [(path, path.decode("utf-8", "backslashreplace")) for path, _ in paths if path]
        database.executemany("INSERT OR IGNORE INTO wanted VALUES (?, ?)", rows)


def _strike(
    database: sqlite3.Connection, found: Iterable[Found], context: Context, *, follow: bool
) -> dict[bytes, bytes]:
    """Takes out of `wanted` what is there, and keeps all paths where there are links; the links."""
    links: dict[bytes, bytes] = {}
    for batch in _batches(found, context):
        files = [(path,) for path, target in batch if target is None]
        links |= {path: target for path, target in batch if target is not None}
        if follow:
            database.executemany("DELETE FROM wanted WHERE path = ?", files)
            database.executemany("INSERT OR IGNORE INTO files VALUES (?)", files)
    return links


def _resolve(database: sqlite3.Connection, links: dict[bytes, bytes]) -> None:
    there = []
    for (path,) in database.execute("SELECT path FROM wanted"):
        real = _followed(path, links)
        if real is not None and database.execute("SELECT 1 FROM files WHERE path = ?", (real,)).fetchone():
            there.append((path,))
    database.executemany("DELETE FROM wanted WHERE path = ?", there)


def _followed(path: bytes, links: dict[bytes, bytes]) -> bytes | None:
    """Where the path leads below the root; None: out of it, or round and round."""
    for _ in range(_MOST_LINKS):
        names = path.split(b"/")
        for depth in range(1, len(names) + 1):
            target = links.get(b"/".join(names[:depth]))
            if target is not None:
                if target.startswith(b"/"):
                    return None
                path = posixpath.normpath(b"/".join([*names[: depth - 1], target, *names[depth:]]))
                break
        else:
            return path
    return None


def _count(database: sqlite3.Connection) -> int:
    found: int = database.execute("SELECT count(*) FROM wanted").fetchone()[0]
    return found


def _batches(values: Iterable[Any], context: Context) -> Iterator[list[Any]]:
    batch = []
    for value in values:
        batch.append(value)
        if len(batch) == _BATCH:
            _stop_if_cancelled(context)
            yield batch
            batch = []
    _stop_if_cancelled(context)
    yield batch


def _stop_if_cancelled(context: Context) -> None:
    if context.cancelled():
        raise Interrupted("looking for files was interrupted", hint="Nothing was changed; start it again.")
