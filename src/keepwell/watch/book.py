"""The watch's memory: one SQLite file with states of alerts, runs, messages on their way, and what people said.

Every change happens in a `turn`, which one process has at a time: of several that notice the same trouble at the same moment
one tells, and the others find it told. What is lost with the file is who was told what; backups do not need it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keepwell.core.clock import from_iso, iso
from keepwell.core.errors import KeepwellError
from keepwell.operations.heads import FOLDER, make_folder
from keepwell.policy.load import LoadedPolicy
from keepwell.watch.state import Alert, Silence

NAME = "watch.db"
_KEPT = dt.timedelta(days=90)
_RUNS_KEPT = 60
"""Of each verb and environment."""
_TABLES = """
create table if not exists alerts (key text primary key, document text not null);
create table if not exists silences (id integer primary key, pattern text not null, until text not null, who text not null);
create table if not exists runs (id integer primary key, verb text not null, environment text, started text not null,
    document text not null);
create index if not exists runs_of on runs (verb, environment, id);
create table if not exists outbox (id integer primary key, channel text not null, due text not null, tries integer not null,
    made text not null, document text not null);
create table if not exists events (id integer primary key, time text not null, document text not null);
create table if not exists notes (name text primary key, value text not null);
"""


class BookError(KeepwellError):
    """The file with the watch's memory cannot be used."""


def place(loaded: LoadedPolicy) -> Path:
    """Where the file is: as the policy says, else `.keepwell/watch.db` beside it."""
    return loaded.policy.watch.state or loaded.base / FOLDER / NAME


class Book:
    """Safe to use from several threads and processes; each call opens the file by itself. Raises BookError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def turn(self) -> Iterator[Pages]:
        """Alone with the pages; everything or nothing of it is written."""
        with self._opened(write=True) as connection:
            connection.execute("begin immediate")
            try:
                yield Pages(connection)
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    @contextlib.contextmanager
    def look(self) -> Iterator[Pages]:
        """For reading only; an empty book where there is none yet."""
        with self._opened(write=False) as connection:
            yield Pages(connection)

    @contextlib.contextmanager
    def _opened(self, *, write: bool) -> Iterator[sqlite3.Connection]:
        try:
            if write:
                self._make_folder()
            new = not self.path.exists()
            there = write or not new
            connection = sqlite3.connect(self.path if there else ":memory:", timeout=30, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from None
        try:
            if new and write:
                connection.execute("pragma user_version = 1")
                os.chmod(self.path, 0o600)  # noqa: PTH101  # messages are nobody else's to read
            if write or not there:
                connection.executescript(_TABLES)
            yield connection
        except sqlite3.Error as error:
            raise self._error(error) from None
        finally:
            connection.close()

    def _make_folder(self) -> None:
        make_folder(self.path.parent)

    def _error(self, error: Exception) -> BookError:
        said = getattr(error, "strerror", None) or str(error)
        return BookError(
            f"the watch's memory {self.path} cannot be used: {said}",
            hint="Give who runs keepwell the right to write there, or name another file: state in [watch] of the policy. "
            "A damaged one may be deleted: only who was told of what is lost.",
        )


class Pages:
    """What is in the book. Made by `Book.turn` and `Book.look`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    # Alerts

    def alerts(self) -> dict[str, Alert]:
        rows = self._db.execute("select key, document from alerts order by key")
        return {key: Alert.from_json(json.loads(text)) for key, text in rows}

    def put_alerts(self, alerts: dict[str, Alert]) -> None:
        self._db.execute("delete from alerts")
        self._db.executemany("insert into alerts values (?, ?)", [(k, json.dumps(a.json())) for k, a in alerts.items()])

    def silences(self, now: dt.datetime) -> list[Silence]:
        """Those that have not ended."""
        rows = self._db.execute("select pattern, until, who from silences order by id").fetchall()
        found = [Silence(pattern, from_iso(until), by) for pattern, until, by in rows]
        return [silence for silence in found if now < silence.until]

    def silence(self, silence: Silence) -> None:
        self._db.execute(
            "insert into silences (pattern, until, who) values (?, ?, ?)",
            (silence.pattern, iso(silence.until), silence.by),
        )

    def end_silence(self, pattern: str) -> int:
        """How many there were."""
        return self._db.execute("delete from silences where pattern = ?", (pattern,)).rowcount

    # Runs

    def begin_run(self, verb: str, environment: str | None, started: dt.datetime, document: dict[str, Any]) -> int:
        row = self._db.execute(
            "insert into runs (verb, environment, started, document) values (?, ?, ?, ?)",
            (verb, environment, iso(started), json.dumps(document)),
        )
        ident = int(row.lastrowid or 0)
        self._db.execute(
            "delete from runs where verb = ? and environment is ? and id not in "
            "(select id from runs where verb = ? and environment is ? order by id desc limit ?)",
            (verb, environment, verb, environment, _RUNS_KEPT),
        )
        return ident

    def end_run(self, ident: int, document: dict[str, Any]) -> None:
        self._db.execute("update runs set document = ? where id = ?", (json.dumps(document), ident))

    def drop_run(self, ident: int) -> None:
        self._db.execute("delete from runs where id = ?", (ident,))

    def runs(self) -> list[tuple[int, str, str | None, dt.datetime, dict[str, Any]]]:
        """Id, verb, environment, start and document, oldest first."""
        rows = self._db.execute("select id, verb, environment, started, document from runs order by id")
        return [(i, verb, env, from_iso(started), json.loads(text)) for i, verb, env, started, text in rows]

    # Messages

    def post(self, channel: str, document: dict[str, Any], now: dt.datetime) -> None:
        self._db.execute(
            "insert into outbox (channel, due, tries, made, document) values (?, ?, 0, ?, ?)",
            (channel, iso(now), iso(now), json.dumps(document)),
        )

    def claim(self, now: dt.datetime, lease: dt.timedelta) -> tuple[int, str, int, dt.datetime, dict[str, Any]] | None:
        """The first message that is due: id, channel, tries so far, when it was made, document.

        Until the lease ends nobody else gets it; so that it is sent again where this process dies over it. Of one channel
        messages go in order.
        """
        row = self._db.execute(
            "select id, channel, tries, made, document from outbox o where due <= ? and not exists "
            "(select 1 from outbox earlier where earlier.channel = o.channel and earlier.id < o.id) order by id limit 1",
            (iso(now),),
        ).fetchone()
        if row is None:
            return None
        self._db.execute("update outbox set due = ? where id = ?", (iso(now + lease), row[0]))
        return row[0], row[1], row[2], from_iso(row[3]), json.loads(row[4])

    def sent(self, ident: int) -> None:
        self._db.execute("delete from outbox where id = ?", (ident,))

    def later(self, ident: int, tries: int, due: dt.datetime) -> None:
        self._db.execute("update outbox set tries = ?, due = ? where id = ?", (tries, iso(due), ident))

    def waiting(self) -> dict[str, int]:
        """Messages on their way, by channel."""
        return dict(self._db.execute("select channel, count(*) from outbox group by channel").fetchall())

    def drop_channels(self, known: set[str]) -> None:
        """Forgets messages and failures of channels that the policy no longer has."""
        for channel in self.waiting().keys() - known:
            self._db.execute("delete from outbox where channel = ?", (channel,))
        for name in [n for n in self.notes("channel:") if n.removeprefix("channel:") not in known]:
            self.forget(name)

    # What happened

    def log(self, now: dt.datetime, document: dict[str, Any]) -> None:
        self._db.execute("insert into events (time, document) values (?, ?)", (iso(now), json.dumps(document)))
        self._db.execute("delete from events where time < ?", (iso(now - _KEPT),))

    def events(self, most: int = 1000) -> list[dict[str, Any]]:
        """What was told, and what people said; the newest last."""
        rows = self._db.execute("select time, document from events order by id desc limit ?", (most,)).fetchall()
        return [{"time": time, **json.loads(text)} for time, text in reversed(rows)]

    # Notes

    def note(self, name: str) -> Any:
        """What was written under the name, or None."""
        row = self._db.execute("select value from notes where name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def notes(self, prefix: str) -> dict[str, Any]:
        rows = self._db.execute("select name, value from notes where substr(name, 1, ?) = ?", (len(prefix), prefix))
        return {name: json.loads(value) for name, value in rows}

    def write(self, name: str, value: Any) -> None:
        self._db.execute("insert or replace into notes values (?, ?)", (name, json.dumps(value)))

    def forget(self, name: str) -> None:
        self._db.execute("delete from notes where name = ?", (name,))
