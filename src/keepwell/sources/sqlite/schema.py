"""What a database is made of besides its rows: objects, settings, foreign keys."""

from __future__ import annotations

import sqlite3
from typing import Any

from blake3 import blake3

from keepwell.core.streams import Finding


def describe(connection: sqlite3.Connection) -> dict[str, Any]:
    """Facts about the database as a whole: sizes, settings, objects, foreign keys that lead nowhere."""
    objects = list_objects(connection)
    text = "\n".join(f"{name}\0{kind}\0{table}\0{digest}" for name, (kind, table, digest) in objects.items())
    return {
        "page_size": pragma(connection, "page_size"),
        "pages": pragma(connection, "page_count"),
        "encoding": pragma(connection, "encoding"),
        "user_version": pragma(connection, "user_version"),
        "application_id": pragma(connection, "application_id"),
        "auto_vacuum": pragma(connection, "auto_vacuum"),
        "objects": {name: list(found) for name, found in objects.items()},
        "schema": blake3(text.encode("utf-8", "surrogateescape")).hexdigest(),
        "foreign_keys": broken_foreign_keys(connection),
    }


def pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def list_objects(connection: sqlite3.Connection) -> dict[str, tuple[str, str, str]]:
    """name: (type, table it belongs to, digest of its SQL), sorted by name."""
    rows = connection.execute("SELECT name, type, tbl_name, CAST(sql AS BLOB) FROM sqlite_master ORDER BY name")
    return {name: (kind, table, blake3(sql or b"").hexdigest()[:16]) for name, kind, table, sql in rows}


def compare_objects(then: dict[str, Any], now: dict[str, Any]) -> list[Finding]:
    """Indexes, triggers, views and tables that are missing, new or defined in another way."""
    findings = []
    for name in sorted(then.keys() | now.keys()):
        if name not in now:
            kind, table, _ = then[name]
            where = f" of {table}" if kind in ("index", "trigger") else ""
            findings.append(Finding(name, f"the {kind}{where} is missing"))
        elif name not in then:
            findings.append(Finding(name, f"the {now[name][0]} was not in the backup"))
        elif list(then[name]) != list(now[name]):
            findings.append(Finding(name, f"the {then[name][0]} is defined in another way than at backup time"))
    return findings


def broken_foreign_keys(connection: sqlite3.Connection) -> dict[str, int]:
    """`{"activities -> leads": 3}`: rows whose parent is missing. SQLite does not enforce by default,
    so production may have some; a restored copy must have the same. A key that is itself wrong counts -1.
    """
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 ORDER BY name")
    broken: dict[str, int] = {}
    for (table,) in tables.fetchall():
        try:
            for parent, count in connection.execute(
                "SELECT parent, count(*) FROM pragma_foreign_key_check(?) GROUP BY parent", (table,)
            ):
                broken[f"{table} -> {parent}"] = count
        except sqlite3.OperationalError as error:
            if "foreign key mismatch" not in str(error):
                raise
            broken[f"{table} -> ?"] = -1
    return broken
