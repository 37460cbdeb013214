"""A database as SQL text that `sqlite3 new.db < file.sql` reads, every value exact.

Unlike `Connection.iterdump` it keeps text that is not UTF-8 or has NUL in it, floats to the last bit,
virtual tables, generated columns, and needs memory for a few rows only.
"""

from __future__ import annotations

import contextlib
import math
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from keepwell.sources.sqlite.opening import reading
from keepwell.sources.sqlite.schema import pragma
from keepwell.sources.sqlite.tables import batches, columns, is_internal, quoted, stand_in_collations

_VIRTUAL = re.compile(r"\s*CREATE\s+VIRTUAL\s", re.IGNORECASE)
_COLUMNS = 1000
_INFINITE = {"inf": b"9e999", "-inf": b"-9e999"}


def write_sql(
    database: Path, file: IO[bytes], chosen: set[str] | None, between: Callable[[], None] = lambda: None
) -> dict[str, int]:
    """Write the chosen tables (None: everything, views too) and return the rows written per table.

    Raises SourceError where the database cannot be read.
    """
    rows: dict[str, int] = {}
    with reading(database, private=True) as connection:
        stand_in_collations(connection)
        objects = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY rowid").fetchall()
        wanted = [found for found in objects if chosen is None or (found[2] in chosen and found[0] != "view")]
        file.write(b"-- Written by keepwell; read it with: sqlite3 new.db < this file\n")
        file.write(f"PRAGMA encoding='{pragma(connection, 'encoding')}';\n".encode())
        file.write(b"PRAGMA foreign_keys=OFF;\n")
        if chosen is None:
            for setting in ("application_id", "user_version"):
                file.write(f"PRAGMA {setting}={pragma(connection, setting)};\n".encode())
        file.write(b"BEGIN;\n")
        tables = [(name, sql) for kind, name, _, sql in wanted if kind == "table"]
        virtual = False
        for name, sql in tables:
            if _VIRTUAL.match(sql or ""):
                file.write(b"" if virtual else b"PRAGMA writable_schema=ON;\n")
                virtual = True
                file.write(_register(name, sql))
            elif not is_internal(name):
                file.write(sql.encode() + b";\n")
                rows[name] = _write_rows(connection, file, name, between)
        _write_sequence(connection, file, [name for _, name, _, _ in objects], chosen)
        for kind in ("index", "view", "trigger"):
            for found, _, _, sql in wanted:
                if found == kind and sql:
                    file.write(sql.encode() + b";\n")
        file.write(b"PRAGMA writable_schema=OFF;\n" if virtual else b"")
        file.write(b"COMMIT;\n")
    return rows


def literal(value: Any, encoding: str = "UTF-8") -> bytes:
    """One value (None, int, float, text as bytearray, blob as bytes) as an SQL literal."""
    if value is None:
        return b"NULL"
    if isinstance(value, float):
        return _INFINITE.get(repr(value)) or repr(value).encode()
    if isinstance(value, int):
        # The number of least value is read as a float when written plainly.
        return str(value).encode() if value > -(2**63) else b"(-9223372036854775807-1)"
    if isinstance(value, bytearray):
        return _text(bytes(value), encoding)
    return f"X'{value.hex()}'".encode()


def _text(value: bytes, encoding: str) -> bytes:
    try:
        text = value.decode()
    except UnicodeDecodeError:  # only where the database is in UTF-8, which SQLite hands out unchecked
        return b"CAST(X'" + value.hex().encode() + b"' AS TEXT)"
    # A carriage return would be lost by programs that read the file in text mode; NUL would end the text.
    if "\0" not in text and "\r" not in text:
        return b"'" + value.replace(b"'", b"''") + b"'"
    return b"CAST(X'" + text.encode(encoding).hex().encode() + b"' AS TEXT)"


def _write_rows(connection: sqlite3.Connection, file: IO[bytes], table: str, between: Callable[[], None]) -> int:
    encoding = pragma(connection, "encoding")
    names = ", ".join(quoted(name) for name in columns(connection, table))
    begin = f"INSERT INTO {quoted(table)}({names}) VALUES(".encode()
    count = 0
    with contextlib.closing(sqlite3.connect(":memory:")) as reader:
        for rows in batches(connection, table):
            between()
            count += len(rows)
            misread = misread_floats(reader, {v for row in rows for v in row if type(v) is float})
            for row in rows:
                values = [misread[v] if type(v) is float and v in misread else literal(v, encoding) for v in row]
                file.write(begin + b", ".join(values) + b");\n")
    return count


def misread_floats(reader: sqlite3.Connection, values: set[float]) -> dict[float, bytes]:
    """Floats whose shortest decimal SQLite reads as a neighbour (1 in 200 of all, 1 in 100,000 prices), each
    with an expression that it computes exactly: an integer times or divided by powers of two.
    """
    exact: dict[float, bytes] = {}
    finite = [value for value in values if not math.isinf(value)]
    for start in range(0, len(finite), _COLUMNS):
        part = finite[start : start + _COLUMNS]
        back = reader.execute("SELECT " + ", ".join(map(repr, part))).fetchone()
        exact |= {value: _powers(value) for value, seen in zip(part, back, strict=True) if value != seen}
    return exact


def _powers(value: float) -> bytes:
    fraction, exponent = math.frexp(value)
    integer, exponent = int(fraction * 2**53), exponent - 53
    sign, text = ("*" if exponent > 0 else "/"), f"CAST({integer} AS REAL)"
    while exponent:
        # Far powers last, so that nothing on the way is rounded: only the end can be subnormal.
        step = min(abs(exponent), 52)
        text += f"{sign}{2**step}.0"
        exponent += -step if exponent > 0 else step
    return f"({text})".encode()


def _register(name: str, sql: str) -> bytes:
    """A virtual table without running its module, which would make its shadow tables a second time."""
    text, called = literal(bytearray(sql.encode())), literal(bytearray(name.encode()))
    return b"INSERT INTO sqlite_master VALUES('table', %b, %b, 0, %b);\n" % (called, called, text)


def _write_sequence(connection: sqlite3.Connection, file: IO[bytes], names: list[str], chosen: set[str] | None) -> None:
    """Counters of AUTOINCREMENT, so that numbers once given are not given again."""
    if "sqlite_sequence" not in names:
        return
    for name, number in connection.execute("SELECT name, seq FROM sqlite_sequence ORDER BY name").fetchall():
        if chosen is None or name in chosen:
            called = literal(bytearray(name.encode()))
            file.write(b"DELETE FROM sqlite_sequence WHERE name = %b;\n" % called)
            file.write(b"INSERT INTO sqlite_sequence VALUES(%b, %b);\n" % (called, literal(number)))
