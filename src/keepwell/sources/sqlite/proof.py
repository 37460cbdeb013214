"""Is a restored database what was backed up? Sandboxes, integrity, rows, digests."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

from keepwell.core.errors import SourceError
from keepwell.core.streams import Context, Facts, Finding
from keepwell.core.workfolder import WorkFolder
from keepwell.sources.sqlite.opening import reading
from keepwell.sources.sqlite.schema import broken_foreign_keys, compare_objects, list_objects
from keepwell.sources.sqlite.spec import Spec, Target
from keepwell.sources.sqlite.tables import quoted, stand_in_collations, stored_tables

_MOST_PROBLEMS = 100
_SETTINGS = ("page_size", "encoding", "user_version", "application_id", "auto_vacuum", "journal_mode")
_FORBIDDEN = (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH)


@contextlib.contextmanager
def sandbox(facts: Facts, context: Context) -> Iterator[Target]:  # noqa: ARG001 - the contract of sources
    """A private folder with room for one database; it is removed afterwards."""
    with WorkFolder("sandbox", context.work) as folder:
        yield Target(folder / "restored.db")


def respec(target: Target, facts: Facts, spec: Spec) -> Spec:  # noqa: ARG001 - the contract of sources
    """How to capture the restored database."""
    return Spec(target.path)


def examine(target: Target, facts: Facts, context: Context) -> list[Finding]:
    """SQLite's integrity check, foreign keys and objects against those of the backup."""
    findings = []
    try:
        with reading(target.path) as connection:
            findings += [Finding(target.path.name, problem) for problem in _integrity(connection, context)]
            findings += compare_objects(facts["objects"], {k: list(v) for k, v in list_objects(connection).items()})
            findings += _compare_keys(facts["foreign_keys"], broken_foreign_keys(connection))
    except SourceError as error:
        findings.append(Finding(target.path.name, error.message))
    return findings


def count_rows(target: Target, facts: Facts) -> dict[str, int]:
    """Rows of each table that is there, by name; a table that is missing is missing here too."""
    counts = {}
    with reading(target.path) as connection:
        stand_in_collations(connection)
        for name in stored_tables(connection):
            if name not in facts["internal"]:
                counts[name] = connection.execute(f"SELECT count(*) FROM {quoted(name)}").fetchone()[0]  # noqa: S608
    return counts


def query(target: Target, sql: str) -> Any:
    """First column of the first row; None where there is no row. Reads only. Raises SourceError."""
    with reading(target.path) as connection:
        connection.set_authorizer(_read_only)
        try:
            row = connection.execute(sql).fetchone()
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise SourceError(
                f"the query failed: {error}", hint=f"Mend the check in the policy; it says: {sql.strip()}"
            ) from error
    return row[0] if row else None


def column(target: Target, sql: str) -> Iterator[Any]:
    """First column of every row, as they come. Reads only. Raises SourceError."""
    with reading(target.path) as connection:
        connection.set_authorizer(_read_only)
        try:
            for row in connection.execute(sql):
                yield row[0]
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise SourceError(
                f"the query failed: {error}", hint=f"Mend references in the policy; it says: {sql.strip()}"
            ) from error


def compare(then: Facts, now: Facts) -> list[Finding]:
    """Rows and digests table by table, objects, settings and foreign keys; one finding for each difference."""
    findings = []
    for group in ("tables", "internal"):
        findings += _compare_tables(then[group], now[group])
    findings += compare_objects(then["objects"], now["objects"])
    findings += [
        Finding(setting, f"is {now[setting]}; it was {then[setting]} at backup time")
        for setting in _SETTINGS
        if then[setting] != now[setting]
    ]
    findings += _compare_keys(then["foreign_keys"], now["foreign_keys"])
    return findings


def _compare_tables(then: dict[str, Any], now: dict[str, Any]) -> list[Finding]:
    findings = []
    for name in sorted(then.keys() | now.keys()):
        if name not in now or name not in then:
            continue  # an object: found there, with its name
        if then[name]["rows"] != now[name]["rows"]:
            findings.append(Finding(name, f"has {now[name]['rows']} rows; {then[name]['rows']} were backed up"))
        elif then[name]["digest"] != now[name]["digest"]:
            findings.append(Finding(name, "has as many rows as were backed up, but not the same values"))
    return findings


def _compare_keys(then: dict[str, int], now: dict[str, int]) -> list[Finding]:
    return [
        Finding(keys, f"{now.get(keys, 0)} rows without a parent; {then.get(keys, 0)} at backup time")
        for keys in sorted(then.keys() | now.keys())
        if then.get(keys, 0) != now.get(keys, 0)
    ]


def _integrity(connection: sqlite3.Connection, context: Context) -> list[str]:
    check = "integrity_check"
    try:
        rows = connection.execute(f"PRAGMA {check}({_MOST_PROBLEMS})").fetchall()
    except sqlite3.OperationalError as error:
        if not _brought_by_application(error):
            raise
        # Without them the order in such indexes cannot be judged here; the pages and records can.
        context.progress.warn(f"indexes were not compared with their tables: {error}")
        stand_in_collations(connection)
        check = "quick_check"
        rows = connection.execute(f"PRAGMA {check}({_MOST_PROBLEMS})").fetchall()
    return [f"{check}: {text}" for (text,) in rows if text != "ok"]


def _brought_by_application(error: sqlite3.Error) -> bool:
    return "no such collation" in str(error) or "unknown function" in str(error) or "no such function" in str(error)


def _read_only(action: int, *_: object) -> int:
    return sqlite3.SQLITE_DENY if action in _FORBIDDEN else sqlite3.SQLITE_OK
