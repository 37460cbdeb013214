"""The sample in SQLite: the development database of the same application."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path
from typing import TypeAlias

from keepwell.core.errors import SourceError, TargetNotEmpty
from keepwell.core.progress import Progress, Silent
from keepwell.demo import records
from keepwell.demo.days import Changes, How, Load, State, first_day, later_day
from keepwell.demo.records import Batch, Table

Value: TypeAlias = str | bytes | int | None


def fill_sqlite(path: Path, rows: int, seed: int = 1, progress: Progress | None = None) -> dict[str, int]:
    """Make the sample as a new SQLite file (folders included), with `rows` leads; returns rows per table.

    Raises TargetNotEmpty where the file exists, SourceError where it cannot be made.
    """
    progress = progress or Silent()
    day = first_day(rows, seed)
    if path.exists():
        raise TargetNotEmpty(f"{path} already exists", hint="Name a new file for the sample, or remove this one.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(
            f"no folder could be made for {path}: {error}", hint="Name a place where you may write."
        ) from error
    with _connected(path, "rwc") as connection:
        script = resources.files("keepwell.demo").joinpath("sqlite.sql").read_text(encoding="utf-8")
        connection.executescript(script)
        connection.execute("BEGIN")
        connection.execute(
            'INSERT INTO "_prisma_migrations" VALUES (?, ?, ?, ?, NULL, NULL, ?, 1)',
            (
                "6f1c2d0e-9a55-4f3b-8d62-0c7a1e4b9f10",
                hashlib.sha256(script.encode()).hexdigest(),
                "2025-01-01T00:00:01+00:00",
                "20250101000000_init",
                "2025-01-01T00:00:00+00:00",
            ),
        )
        counts = {load[0].name: _insert(connection, load, seed, progress) for load in day.loads()}
        connection.execute("COMMIT")
        connection.execute("ANALYZE")
    return counts


def change_sqlite(
    path: Path, share: float = 0.01, how: How = "recent", seed: int = 1, progress: Progress | None = None
) -> Changes:
    """Let one more day pass. The same state, share, way and seed give the same rows.

    Raises SourceError where the file is missing or is not the sample, UsageError for a wrong share or way.
    """
    progress = progress or Silent()
    with _connected(path, "rw") as connection:
        connection.execute("BEGIN IMMEDIATE")
        state = connection.execute(
            "SELECT (SELECT max(id) FROM users), (SELECT max(id) FROM leads), (SELECT max(id) FROM activities), "
            "(SELECT max(max(created_at), max(updated_at)) FROM leads)"
        ).fetchone()
        if None in state:
            raise SourceError(f"the sample in {path} has lost its rows", hint="Make a new one.")
        users, leads, activities, newest = state
        day = later_day(State(users, leads, activities, dt.datetime.fromisoformat(newest)), share, how, seed)
        changes = Changes()
        for load in day.loads():
            if count := _insert(connection, load, day.seed, progress):
                changes.appended[load[0].name] = count
        changes.changed["leads"] = sum(
            connection.executemany(
                "UPDATE leads SET status = CASE status WHEN 'won' THEN status ELSE ?2 END, score = ?3, notes = ?4, "
                "updated_at = ?5 WHERE id = ?1",
                batch,
            ).rowcount
            for batch in day.lead_changes()
        )
        changes.changed["activities"] = sum(
            connection.executemany("UPDATE activities SET subject = ?2, body = ?3 WHERE id = ?1", batch).rowcount
            for batch in day.activity_changes()
        )
        connection.execute("COMMIT")
    return changes


@contextmanager
def _connected(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    if mode != "rwc" and not path.is_file():
        raise SourceError(f"there is no sample at {path}", hint="Make it first, or see that the path is right.")
    try:
        address = f"{path.absolute().as_uri()}?mode={mode}"
        with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            yield connection
    except sqlite3.Error as error:
        raise SourceError(
            f"the sample in {path} could not be worked on: {error}",
            hint="See that the file is the sample and that no other program holds it.",
        ) from error


def _insert(connection: sqlite3.Connection, load: Load, seed: int, progress: Progress) -> int:
    table, expected, batches = load
    task = f"filling {table.name}"
    progress.begin(task, expected, "rows")
    convert = _converter(table, seed)
    places = ", ".join("?" * len(table.columns))
    sql = f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({places})"
    count = 0
    for batch in batches:
        connection.executemany(sql, convert(batch))
        count += len(batch)
        progress.advance(task, len(batch))
    progress.end(task)
    return count


def _converter(table: Table, seed: int) -> Callable[[Batch], Iterator[list[Value]]]:
    """From PostgreSQL's input syntax to SQLite's values. Numbers need nothing: column affinity makes them numbers."""

    def binary(text: str) -> Value:
        return bytes.fromhex(text[2:])

    def boolean(text: str) -> Value:
        return int(text == "t")

    def array(text: str) -> Value:
        return json.dumps(text[1:-1].split(",") if len(text) > 2 else [])

    def large_object(text: str) -> Value:
        return records.contract(seed, int(text))

    special: dict[int, Callable[[str], Value]] = {}
    for names, function in (
        (table.binary, binary),
        (table.boolean, boolean),
        (table.array, array),
        (table.large_object, large_object),
    ):
        special |= {table.columns.index(name): function for name in names}

    def convert(batch: Batch) -> Iterator[list[Value]]:
        for row in batch:
            values: list[Value] = [None if value == records.NULL else value for value in row]
            for at, function in special.items():
                if row[at] != records.NULL:
                    values[at] = function(row[at])
            yield values

    return convert
