"""Rows and digest of every table: equal before and after means that the data came back."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from keepwell.core.errors import SourceError

if TYPE_CHECKING:
    import psycopg

Fingerprint: TypeAlias = dict[str, tuple[int, str]]
"""Name to rows (bytes, for files) and a digest in hexadecimal."""

# How a row looks as text must not depend on the server's settings.
_SETTINGS = (
    "SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET bytea_output = 'hex'; "
    "SET extra_float_digits = 1; SET lc_monetary = 'C'; SET search_path = pg_catalog"
)
_RELATIONS = """
    SELECT format('%I.%I', n.nspname, c.relname), n.nspname || '.' || c.relname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition
      AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
    ORDER BY 2
"""
# Two sums of 60 bits each over the rows' md5: the same whatever the order of the rows, and no sorting of big tables.
_DIGEST = """
    SELECT count(*), md5(concat_ws(' ', count(*), sum(left_half), sum(right_half)))
    FROM (SELECT ('x' || substr(h, 1, 15))::bit(60)::bigint AS left_half,
                 ('x' || substr(h, 17, 15))::bit(60)::bigint AS right_half
          FROM (SELECT md5({row}) AS h FROM {relation}) AS hashed) AS halves
"""


def fingerprint_postgres(url: str) -> Fingerprint:
    """Every table (a partitioned one as a whole) and materialized view as `schema.name`, computed by the server.

    Large objects and sequences are the two entries `large objects` and `sequences`; they stand for no table, so they
    have no dot. Raises SourceError where the database cannot be read.
    """
    import psycopg

    try:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_SETTINGS)
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            # A row of no columns has no text of its own; concat makes it the empty one.
            found = {
                name: _digest(connection, "concat(t)", f"{quoted} AS t")
                for quoted, name in connection.execute(_RELATIONS).fetchall()
            }
            found["large objects"] = _digest(
                connection, "concat_ws(' ', oid, md5(lo_get(oid)))", "pg_largeobject_metadata"
            )
            found["sequences"] = _digest(
                connection, "concat_ws(' ', schemaname, sequencename, last_value, increment_by)", "pg_sequences"
            )
            return found
    except psycopg.Error as error:
        raise SourceError(
            f"the rows could not be counted and compared: {_without_address(error)}",
            hint="See that the server runs and that its user may read every table.",
        ) from error


def fingerprint_sqlite(path: Path) -> Fingerprint:
    """Every table of the file, by name. Raises SourceError where it is missing or cannot be read."""
    if not path.is_file():
        raise SourceError(f"there is no database at {path}", hint="See that the path is right.")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as read:
            read.execute("BEGIN")
            names = read.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_stat%' ORDER BY name"
            ).fetchall()
            return {name: _sqlite_digest(read, name) for (name,) in names}
    except sqlite3.Error as error:
        raise SourceError(f"{path} could not be read: {error}", hint="See that it is a SQLite database.") from error


def fingerprint_folder(folder: Path) -> Fingerprint:
    """Everything below the folder by its relative path (undecodable bytes as surrogates): size, and a digest of kind,
    mode, content, link target and, except for folders and links, the time of the last change.

    Raises SourceError where something cannot be read.
    """
    if not folder.is_dir():
        raise SourceError(f"there is no folder {folder}", hint="See that the path is right.")
    found: Fingerprint = {}
    try:
        for path in sorted(folder.rglob("*"), key=os.fsencode):
            about = path.lstat()
            digest = hashlib.md5(f"{stat.filemode(about.st_mode)}".encode(), usedforsecurity=False)
            size = 0
            if path.is_symlink():
                digest.update(os.fsencode(path.readlink()))
            elif stat.S_ISREG(about.st_mode):
                digest.update(f" {about.st_mtime_ns} ".encode() + path.read_bytes())
                size = about.st_size
            found[str(path.relative_to(folder))] = (size, digest.hexdigest())
    except OSError as error:
        raise SourceError(f"{folder} could not be read: {error}", hint="See that you may read all of it.") from error
    return found


def _digest(connection: psycopg.Connection[tuple[Any, ...]], row: str, relation: str) -> tuple[int, str]:
    answer = connection.execute(_DIGEST.format(row=row, relation=relation)).fetchone()  # type: ignore[arg-type, unused-ignore]  # names are quoted by the server
    assert answer is not None
    return int(answer[0]), str(answer[1])


def _sqlite_digest(connection: sqlite3.Connection, name: str) -> tuple[int, str]:
    quoted = '"' + name.replace('"', '""') + '"'
    columns = len(connection.execute(f"SELECT * FROM {quoted} LIMIT 0").description)
    order = ", ".join(str(k + 1) for k in range(columns))
    digest, count = hashlib.md5(usedforsecurity=False), 0
    for row in connection.execute(f"SELECT * FROM {quoted} ORDER BY {order}"):
        digest.update(repr(row).encode())
        count += 1
    return count, digest.hexdigest()


def _without_address(error: Exception) -> str:
    """A malformed address is repeated in the library's message, and a password with it."""
    import psycopg

    return (
        "the address cannot be read"
        if isinstance(error, psycopg.ProgrammingError) and not error.diag.sqlstate
        else str(error)
    )
