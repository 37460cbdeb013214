# ruff: noqa: S608 - the names of tables are this module's own, and values are always parameters
"""What the engine notes beside DBOS's own tables: which workers are alive, and up to when each plan has been looked at.

Everything that decides over a run's owner happens in the engine database, by its clock and in one statement, so that two
workers can never both believe that a run is theirs to take. The argument is in docs/why/schedules.md.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from keepwell.core.clock import from_iso, iso
from keepwell.core.errors import KeepwellError
from keepwell.engine.database import Database


class EngineError(KeepwellError):
    """The engine database cannot be used."""


class RunLost(KeepwellError):
    """The run has been taken over by another worker: this one must not commit it."""


def unusable(database: Database, error: Exception) -> EngineError:
    """Never the whole text of the error: it may know the statement, its values, and the address with its password."""
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlstate", None)
    what = f"{type(cause).__name__} {code}" if code else type(cause).__name__
    if not database.shared:
        what = str(cause)
    return EngineError(f"the engine database {database.shown} cannot be used: {what}", hint=database.hint)


@dataclass(frozen=True)
class Worker:
    """One process of the fleet. `age`: seconds since its last sign of life, by the clock of the database."""

    name: str
    about: Mapping[str, Any]
    age: float


class Ledger:
    """Safe to use from several threads. Every method raises EngineError where the database cannot be used."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._engine = sa.create_engine(database.url, **database.options)
        self._runs = f"{database.prefix}workflow_status"
        self._marks = f"{database.prefix}keepwell_marks"
        self._workers = f"{database.prefix}keepwell_workers"
        self._now = (
            "extract(epoch from clock_timestamp())" if database.shared else "((julianday('now') - 2440587.5) * 86400.0)"
        )

    def close(self) -> None:
        self._engine.dispose()

    def prepare(self) -> None:
        """Makes the tables; harmless where they are there."""
        with self._turn() as db:
            if self._database.shared:
                db.execute(sa.text("select pg_advisory_xact_lock(7223041121337)"))  # two that begin at the same moment
                db.execute(sa.text(f"create schema if not exists {self._database.schema}"))
            db.execute(
                sa.text(f"create table if not exists {self._marks} (name text primary key, until text not null)")
            )
            db.execute(
                sa.text(
                    f"create table if not exists {self._workers} "
                    "(name text primary key, about text not null, seen double precision not null)"
                )
            )

    # Plans

    def marks(self) -> dict[str, dt.datetime]:
        """Up to when each plan has been looked at, by the plan's name."""
        with self._turn() as db:
            rows = db.execute(sa.text(f"select name, until from {self._marks}")).fetchall()
        return {name: from_iso(until) for name, until in rows}

    def mark(self, until: Mapping[str, dt.datetime]) -> None:
        if not until:
            return
        statement = sa.text(
            f"insert into {self._marks} (name, until) values (:name, :until) "
            "on conflict (name) do update set until = excluded.until"
        )
        # In one order: two workers that write at the same time must not wait for each other in a circle.
        rows = [{"name": name, "until": iso(until[name])} for name in sorted(until)]
        with self._turn() as db:
            db.execute(statement, rows)

    # Workers

    def beat(self, name: str, about: Mapping[str, Any]) -> None:
        """A sign of life."""
        statement = sa.text(
            f"insert into {self._workers} (name, about, seen) values (:name, :about, {self._now}) "
            f"on conflict (name) do update set seen = excluded.seen, about = excluded.about"
        )
        with self._turn() as db:
            db.execute(statement, {"name": name, "about": json.dumps(about)})

    def leave(self, name: str) -> None:
        """The worker ends: its runs are free at once."""
        with self._turn() as db:
            db.execute(sa.text(f"delete from {self._workers} where name = :name"), {"name": name})
            self._free(db, "executor_id = :name", {"name": name})

    def workers(self) -> list[Worker]:
        with self._turn() as db:
            rows = db.execute(
                sa.text(f"select name, about, {self._now} - seen from {self._workers} order by name")
            ).fetchall()
        return [Worker(name, json.loads(about), float(age)) for name, about, age in rows]

    # Runs

    def take_over(self, patience: float, *, alone: str | None = None) -> list[str]:
        """Frees the runs of workers that have given no sign of life for so many seconds. Their identities.

        `alone`: this worker is the only one, so that every other is dead. A run that is being committed at this moment is
        left as it is: its row is locked (`permit`).
        """
        dead = f"executor_id not in (select name from {self._workers} where {self._now} - seen < :patience)"
        with self._turn() as db:
            freed = self._free(db, "executor_id <> :alone" if alone else dead, {"patience": patience, "alone": alone})
            db.execute(sa.text(f"delete from {self._workers} where {self._now} - seen > 86400"))
        return freed

    def free(self, worker: str, *, but: frozenset[str], older: float) -> list[str]:
        """Frees the worker's runs except these, which it is at: those that it gave up while the database did not answer.

        Begun at least `older` seconds ago: a younger one may have been handed out and not yet be known here.
        """
        begun = f"executor_id = :worker and started_at_epoch_ms < ({self._now} - :older) * 1000"
        with self._turn() as db:
            rows = db.execute(
                sa.text(f"select workflow_uuid from {self._runs} where status = 'PENDING' and {begun}"),
                {"worker": worker, "older": older},
            ).fetchall()
            return [
                ident
                for (ident,) in rows
                if ident not in but
                and self._free(
                    db, f"workflow_uuid = :run and {begun}", {"worker": worker, "older": older, "run": ident}
                )
            ]

    def of_any_version(self) -> int:
        """Lets runs that wait for a program of another version be done by this one. How many there were.

        A run is one call that may be repeated whole and needs nothing of what the older program had reached, so no version
        of the program must finish what another began (docs/why/schedules.md).
        """
        with self._turn() as db:
            return db.execute(
                sa.text(
                    f"update {self._runs} set application_version = null "
                    "where status in ('ENQUEUED', 'DELAYED') and application_version is not null"
                )
            ).rowcount

    def given_up(self, since: dt.datetime) -> list[str]:
        """Runs that took their process with them so often that they are not begun any more."""
        with self._turn() as db:
            rows = db.execute(
                sa.text(
                    f"select workflow_uuid from {self._runs} where status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' "
                    "and updated_at >= :since order by updated_at"
                ),
                {"since": int(since.timestamp() * 1000)},
            ).fetchall()
        return [ident for (ident,) in rows]

    def forget(self, before: dt.datetime) -> int:
        """Deletes what is known of runs that ended before. How many."""
        with self._turn() as db:
            return db.execute(
                sa.text(
                    f"delete from {self._runs} where completed_at < :before "
                    "and status in ('SUCCESS', 'ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')"
                ),
                {"before": int(before.timestamp() * 1000)},
            ).rowcount

    @contextlib.contextmanager
    def permit(self, ident: str, worker: str) -> Iterator[None]:
        """Around the commit of a run: it is this worker's, and stays so meanwhile. Raises RunLost."""
        lock = " for update" if self._database.shared else ""
        with self._turn() as db:
            if self._database.shared:
                # A machine that died in the middle of a commit keeps its run locked for this long, and no longer.
                db.execute(sa.text("set local idle_in_transaction_session_timeout = '10min'"))
            found = db.execute(
                sa.text(
                    f"select 1 from {self._runs} where workflow_uuid = :run and status = 'PENDING' "
                    f"and executor_id = :worker{lock}"
                ),
                {"run": ident, "worker": worker},
            ).fetchone()
            if found is None:
                raise RunLost(
                    f"{ident} was taken over by another worker",
                    hint="This one gave no sign of life for too long. Nothing was committed here; the other does the run.",
                )
            if not self._database.shared:
                db.rollback()  # one process has the file, so nothing can be taken from it, and nobody should wait
            yield

    def _free(self, db: sa.Connection, whose: str, values: Mapping[str, Any]) -> list[str]:
        # What DBOS does to recover a run (SystemDatabase.reenqueue_for_recovery), but together with the question whether
        # the owner is alive, and without the version: any program may go on.
        skip = " for update skip locked" if self._database.shared else ""
        rows = db.execute(
            sa.text(
                f"update {self._runs} set status = 'ENQUEUED', owner_xid = null, started_at_epoch_ms = null, "
                f"application_version = null where status = 'PENDING' and workflow_uuid in (select workflow_uuid from "
                f"{self._runs} where status = 'PENDING' and {whose}{skip}) returning workflow_uuid"
            ),
            dict(values),
        ).fetchall()
        return [ident for (ident,) in rows]

    @contextlib.contextmanager
    def _turn(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise unusable(self._database, error) from None
