"""Rows and digests per table, from what the rows say and not from how the pages lie.

The digest of a table is BLAKE3 over the digests of its columns, in order; that of a column is over three
digests: of the types (one byte a row: 0 null, 1 integer, 2 real, 3 text, 4 blob), of the numbers (8 bytes
little-endian: integers, floats bit for bit, lengths of texts and blobs), and of the bytes of texts and blobs.
Rows come in rowid order, WITHOUT ROWID tables in the order of their key. Whole columns are worked on at a
time (here 280,000 rows of eight columns a second); values of many megabytes are read piece by piece.
"""

from __future__ import annotations

import re
import sqlite3
import struct
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from blake3 import blake3

_NULL = type(None)
_TYPES: dict[type, int] = {_NULL: 0, int: 1, float: 2, bytearray: 3, bytes: 4}
_BATCH_ROWS = 500
_BATCH_BYTES = 4 << 20
_ROWS_WITHOUT_SIZES = 16
_LARGE = 4 << 20
"""Bytes; the contents of larger values never lie in memory whole, where SQLite can give them in pieces."""
_PIECE = 1 << 20
_PLAIN = (0, 1)
"""`hidden` of pragma table_xinfo: 2 and 3 are generated columns, which follow from the others."""


_COLLATE = re.compile(r"""\bCOLLATE\s+("(?:[^"]|"")+"|\[[^]]+\]|`[^`]+`|'[^']+'|\w+)""", re.IGNORECASE)


def stand_in_collations(connection: sqlite3.Connection) -> None:
    """Let tables be read whose order the application defines; never for judging that order.

    SQLite refuses every query on a table that is keyed by a collation it does not know.
    """
    builtin = {name for _, name in connection.execute("PRAGMA collation_list")}
    definitions = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    for name in {found.strip("\"[]`'") for (sql,) in definitions for found in _COLLATE.findall(sql)}:
        if name.upper() not in builtin:
            connection.create_collation(name, lambda one, other: (one > other) - (one < other))


def quoted(name: str) -> str:
    """The name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def stored_tables(connection: sqlite3.Connection) -> list[str]:
    """Tables that hold rows of their own, by name; `sqlite_…` ones too. Views and virtual tables hold none:
    the content of a virtual table is in its shadow tables, which are ordinary here.
    """
    return [
        name
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 ORDER BY name"
        )
    ]


def is_internal(name: str) -> bool:
    """SQLite's own: counters of AUTOINCREMENT, statistics."""
    return name.lower().startswith("sqlite_")


def columns(connection: sqlite3.Connection, table: str) -> list[str]:
    """The columns that are stored, in order."""
    return [
        name
        for name, hidden in connection.execute("SELECT name, hidden FROM pragma_table_xinfo(?)", (table,))
        if hidden in _PLAIN
    ]


def select_rows(connection: sqlite3.Connection, table: str) -> str:
    """The query for all stored columns in an order that depends on the rows alone."""
    what = ", ".join(quoted(name) for name in columns(connection, table))
    key = _key_without_rowid(connection, table)
    if key is None:
        # Forbidding indexes leaves the scan in rowid order; naming the rowid could meet a column of that name.
        return f"SELECT {what} FROM {quoted(table)} NOT INDEXED"  # noqa: S608 - quoted identifiers
    order = ", ".join(f"{quoted(name)} COLLATE BINARY" for name in key)
    return f"SELECT {what} FROM {quoted(table)} ORDER BY {order}"  # noqa: S608 - quoted identifiers


def batches(connection: sqlite3.Connection, table: str) -> Iterator[list[tuple[Any, ...]]]:
    """All rows, a few MB at a time; text as bytearray (any bytes, not only UTF-8), blobs as bytes."""
    yield from _fetch(connection, select_rows(connection, table), _batch_rows(_largest_row(connection, table)))


def digest_table(
    connection: sqlite3.Connection, table: str, step: Callable[[int], None] = lambda _rows: None
) -> dict[str, Any]:
    """`{"rows": int, "digest": hex}`; `step` is told how many rows went by."""
    names = columns(connection, table)
    hashers = [(blake3(), blake3(), blake3()) for _ in names]
    largest = _largest_row(connection, table)
    rowid = _rowid(connection, table) if largest is not None and largest > _LARGE else None
    count = 0
    if rowid is None:
        for rows in _fetch(connection, select_rows(connection, table), _batch_rows(largest)):
            count += len(rows)
            for column, (types, numbers, content) in zip(zip(*rows, strict=True), hashers, strict=True):
                _digest_column(column, types, numbers, content)
            step(len(rows))
    else:
        for where, *values in _row_by_row(connection, table, names, rowid):
            count += 1
            large = values[len(names) :]
            for name, value, kind, trio in zip(names, values, large, hashers, strict=False):
                if kind:
                    _digest_large(connection, (table, name, where), kind, trio)
                else:
                    _digest_column((value,), *trio)
            step(1)
    joined = b"".join(hasher.digest() for trio in hashers for hasher in trio)
    return {"rows": count, "digest": blake3(joined).hexdigest()}


def _fetch(connection: sqlite3.Connection, query: str, size: int) -> Iterator[list[tuple[Any, ...]]]:
    before = connection.text_factory
    connection.text_factory = bytearray
    try:
        cursor = connection.execute(query)
        while rows := cursor.fetchmany(size):
            yield rows
    finally:
        connection.text_factory = before


def _row_by_row(connection: sqlite3.Connection, table: str, names: list[str], rowid: str) -> Iterator[tuple[Any, ...]]:
    """Rowid, values, and for each value its type byte where it is large: then it is not among the values."""
    shown, large = [], []
    for name in map(quoted, names):
        # Of a blob the length is known without reading it; of a text only after counting.
        size = f"CASE typeof({name}) WHEN 'blob' THEN length({name}) WHEN 'text' THEN length(CAST({name} AS BLOB)) END"
        shown.append(f"CASE WHEN {size} > {_LARGE} THEN NULL ELSE {name} END")
        large.append(f"CASE WHEN {size} > {_LARGE} THEN CASE typeof({name}) WHEN 'text' THEN 3 ELSE 4 END ELSE 0 END")
    what = ", ".join([rowid, *shown, *large])
    for rows in _fetch(connection, f"SELECT {what} FROM {quoted(table)} NOT INDEXED", 1):  # noqa: S608 - quoted
        yield rows[0]


def _digest_large(connection: sqlite3.Connection, place: tuple[str, str, int], kind: int, trio: Any) -> None:
    types, numbers, content = trio
    table, column, row = place
    types.update(bytes((kind,)))
    with connection.blobopen(table, column, row, readonly=True) as blob:
        numbers.update(struct.pack("<q", len(blob)))
        while piece := blob.read(_PIECE):
            content.update(piece)


def _rowid(connection: sqlite3.Connection, table: str) -> str | None:
    """A name for the rowid, where the table has one and values can be read in pieces by it."""
    if _key_without_rowid(connection, table) is not None:
        return None
    if connection.execute("PRAGMA encoding").fetchone()[0] != "UTF-8":
        return None  # pieces of text would come in the other encoding
    found = connection.execute("SELECT name, hidden FROM pragma_table_xinfo(?)", (table,)).fetchall()
    if any(hidden not in _PLAIN for _, hidden in found):
        return None  # newer SQLite gives no pieces out of tables with generated columns
    taken = {name.lower() for name, _ in found}
    return next((name for name in ("_rowid_", "rowid", "oid") if name not in taken), None)


def _digest_column(column: Sequence[Any], types: Any, numbers: Any, content: Any) -> None:
    kinds = set(map(type, column))
    if len(kinds) == 1:
        types.update(bytes((_TYPES[type(column[0])],)) * len(column))
    else:
        types.update(bytes(map(_TYPES.__getitem__, map(type, column))))
        kinds.discard(_NULL)
        column = [value for value in column if value is not None]
    if len(kinds) > 1:
        for value in column:
            if isinstance(value, float):
                numbers.update(struct.pack("<d", value))
            else:
                numbers.update(struct.pack("<q", value if isinstance(value, int) else len(value)))
                if not isinstance(value, int):
                    content.update(bytes(value))
        return
    kind = kinds.pop()
    if kind is int:
        numbers.update(_little_endian(array("q", column)))
    elif kind is float:
        numbers.update(_little_endian(array("d", column)))
    elif kind is not _NULL:
        numbers.update(_little_endian(array("q", map(len, column))))
        content.update(b"".join(column))


def _little_endian(values: array[Any]) -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def _key_without_rowid(connection: sqlite3.Connection, table: str) -> list[str] | None:
    """The columns of the primary key where the table has no rowid."""
    for name, origin in connection.execute("SELECT name, origin FROM pragma_index_list(?)", (table,)).fetchall():
        if origin == "pk":
            stored = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = ?", (name,))
            if stored.fetchone() is None:  # the key is the table itself
                found = connection.execute(
                    "SELECT name FROM pragma_index_xinfo(?) WHERE key = 1 ORDER BY seqno", (name,)
                )
                return [column for (column,) in found]
    return None


def _largest_row(connection: sqlite3.Connection, table: str) -> int | None:
    """Bytes of the largest row; None where this SQLite cannot tell."""
    try:
        (largest,) = connection.execute("SELECT max(mx_payload) FROM dbstat WHERE name = ?", (table,)).fetchone()
    except sqlite3.OperationalError:  # a SQLite without the dbstat table
        return None
    return largest or 0


def _batch_rows(largest: int | None) -> int:
    """So many rows that a batch stays small even where a single row is very large."""
    if largest is None:
        return _ROWS_WITHOUT_SIZES
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, largest)))
