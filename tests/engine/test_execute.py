"""Each kind of job does what the command of its name does, and is seen by the watch."""

import datetime as dt
import os
import sqlite3
import threading
from contextlib import closing

import pytest

from keepwell.core.clock import FakeClock
from keepwell.core.errors import Interrupted
from keepwell.engine.database import sqlite_at
from keepwell.engine.durable import Engine, Runs
from keepwell.engine.execute import RunGivenUp, after, given_up, run
from keepwell.engine.heart import Heart
from keepwell.engine.jobs import Job
from keepwell.engine.ledger import Ledger
from keepwell.engine.workman import document
from keepwell.operations.backup import BackupRequest, backup
from keepwell.watch.book import Book
from keepwell.watch.book import place as book_place

pytestmark = pytest.mark.slow

DUE = dt.datetime(2026, 11, 22, 2, tzinfo=dt.UTC)


@pytest.fixture
def copied(place):
    place.write_policy(more=f'[[copies]]\nname = "far"\nstore = "file://{place.folder}/far"\nafter_backup = true')
    return place


def test_every_kind_of_job_is_done(copied):
    place = copied
    done = [
        run(Job(kind, name, DUE), place.loaded, place.context())
        for kind, name in (
            ("backup", "production"),
            ("verify", "production"),
            ("prune", None),
            ("check", None),
            ("copy", "far"),
        )
    ]
    assert [outcome.result for outcome in done] == ["done"] * 5
    [backup] = place.listed()
    assert backup.proven
    assert done[0].backup == done[1].backup == str(backup.id)
    with Book(book_place(place.loaded)).look() as pages:
        seen = [(verb, environment, document["outcome"]) for _, verb, environment, _, document in pages.runs()]
    assert seen == [
        ("backup", "production", "done"),
        ("verify", "production", "done"),
        ("prune", None, "done"),
        ("check", None, "done"),
        ("copy", "far", "done"),
    ]


def test_of_one_occurrence_there_is_one_backup_also_where_the_second_begins_before_the_first_is_committed(place):
    job = Job("backup", "production", DUE)
    first = []

    class MeanwhileAnother:
        """The permit of the later one is asked for right before its commit: there the earlier one commits."""

        def __enter__(self):
            # From another machine: the lock of this one does not hold it up.
            first.append(place.backup_elsewhere(job.ident))

        def __exit__(self, *_):
            pass

    place.backup_elsewhere = lambda ident: _elsewhere(place, ident)
    second = run(job, place.loaded, place.context(), permit=MeanwhileAnother)
    assert second.repeated
    assert second.backup == first[0]
    third = run(job, place.loaded, place.context())
    assert third.repeated
    assert [str(backup.id) for backup in place.listed()] == first
    assert place.verify().proven


def _elsewhere(place, ident):
    own = os.environ["XDG_CACHE_HOME"]
    os.environ["XDG_CACHE_HOME"] = own + "-elsewhere"
    try:
        return backup(place.loaded, BackupRequest("production", run=ident), place.context()).backup
    finally:
        os.environ["XDG_CACHE_HOME"] = own


def test_a_run_that_is_interrupted_commits_nothing(place):
    with pytest.raises(Interrupted):
        run(Job("backup", "production", DUE), place.loaded, place.context(cancelled=lambda: True))
    assert place.listed() == []


def test_copies_that_follow_backups_are_due_once_a_minute_after_the_last_of_them(copied):
    job, now = Job("backup", "production", DUE), DUE + dt.timedelta(minutes=3, seconds=5)
    assert after(job, copied.loaded, now) == [Job("copy", "far", DUE + dt.timedelta(minutes=4))]
    assert after(job, copied.loaded, now + dt.timedelta(seconds=50)) == after(job, copied.loaded, now)
    assert after(Job("prune", None, DUE), copied.loaded, now) == []


def test_a_run_that_is_given_up_is_a_failure_for_the_watch(place):
    """It took its process with it ten times: nobody is left to tell of it but the next process."""
    database = sqlite_at(place.folder / "engine.db")
    ledger, runs, told = Ledger(database), Runs(database), []
    ledger.prepare()
    job = Job("backup", "production", DUE)
    engine = Engine(database, "me", ("nowhere",), lambda ident, job: job)

    def give_up(ident):
        told.append(ident)
        with pytest.raises(RunGivenUp):
            given_up(ident, place.loaded, place.context())

    clock = FakeClock(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    heart = Heart(ledger, "me", {}, engine, threading.Event(), 10, 60, clock, give_up)
    with engine:
        runs.enqueue(job.ident, document(job), site=None, group="environment/production")
        with closing(sqlite3.connect(database.file, timeout=30)) as db, db:
            db.execute("update workflow_status set status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'")
        heart.first(shared=False, launch=lambda: None)
    runs.close()
    ledger.close()
    assert told == [job.ident]
    with Book(book_place(place.loaded)).look() as pages:
        [(_, verb, environment, _, seen)] = pages.runs()
    assert (verb, environment, seen["outcome"], seen["kind"]) == ("backup", "production", "failed", "RunGivenUp")
