"""Plans are carried out by PostgreSQL itself: what is promised is reached, what is refused cannot be.

Backups by pg_basebackup and an archive in a folder, so that nothing but the plan is on trial.
"""

import contextlib
import datetime as dt
import os
import random
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from keepwell.core.errors import SourceError, UsageError
from keepwell.core.wal import is_segment, parse_lsn, parse_segment, segment_name, show_lsn
from keepwell.operations.logpath import Base
from keepwell.operations.moments import plan, recoverable
from keepwell.sources.base import Recovery
from support.majors import EVERY
from support.physical_load import (
    LoggingServer,
    await_end_of_recovery,
    fill,
    give_to_server,
    load,
    logging_server,
    open_folder,
    require_balanced,
    run,
)

pytestmark = pytest.mark.slow
SIZE = 16 << 20


class Archive:
    """A folder that archive_command copied whole segments into."""

    def __init__(self, folder):
        self.folder = folder

    def timelines(self):
        return [1]

    def history(self, timeline):
        return []

    def spans(self, timeline):
        starts = sorted(parse_segment(name, SIZE)[1] for name in os.listdir(self.folder) if is_segment(name))
        spans = []
        for start in starts:
            if spans and spans[-1][1] == start:
                spans[-1] = (spans[-1][0], start + SIZE)
            else:
                spans.append((start, start + SIZE))
        return spans

    def read(self, timeline, start, length):
        with (self.folder / segment_name(timeline, start, SIZE)).open("rb") as file:
            file.seek(start % SIZE)
            return file.read(length)


@dataclass
class Story:
    """A server's life that is over, and what is left of it: two backups and the log."""

    server: LoggingServer
    folder: Path
    archive: Archive
    bases: list[Base] = field(default_factory=list)
    transactions: dict[str, int] = field(default_factory=dict)
    lsns: dict[str, int] = field(default_factory=dict)
    times: dict[str, dt.datetime] = field(default_factory=dict)

    def ask(self, sql):
        with psycopg.connect(self.server.url().reveal(), autocommit=True) as connection:
            return connection.execute(sql).fetchone()[0]

    def backup(self):
        name = f"backup-{len(self.bases) + 1}"
        command = [self.server.programs.path("pg_basebackup"), "-D", str(self.folder / name), "-v", "-c", "fast"]
        parameters = self.server.address().parameters
        env = {**os.environ, "PGHOST": parameters["host"], "PGPORT": parameters["port"], "PGUSER": "postgres"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        start, stop = (parse_lsn(re.search(rf"{what} point: (\S+)", done.stderr)[1]) for what in ("start", "end"))
        self.bases.append(Base(name, "1", 1, start, stop, self.ask("SELECT clock_timestamp()"), SIZE))

    def note(self, name):
        self.transactions[name] = require_balanced(self.server.url().reveal()).transactions
        self.lsns[name] = parse_lsn(self.ask("SELECT pg_current_wal_lsn()"))
        self.times[name] = self.ask("SELECT clock_timestamp()")

    def plan(self, **wanted):
        return plan(self.bases, lambda system: self.archive, Recovery(**wanted))

    @contextlib.contextmanager
    def carried_out(self, backup, recovery):
        """The recovered server, after the end of its recovery."""
        with open_folder() as folder:
            shutil.copytree(self.folder / backup, folder / "data")
            (folder / "data" / "recovery.signal").touch()
            for path in [folder, *folder.rglob("*")]:
                give_to_server(path)
            (folder / "data").chmod(0o700)
            settings = {"restore_command": f"cp {self.archive.folder}/%f %p", "recovery_target_action": "promote"}
            settings["recovery_target_timeline"] = recovery.timeline
            if recovery.time:
                settings["recovery_target_time"] = recovery.time.isoformat(sep=" ")
            if recovery.lsn is not None:
                settings["recovery_target_lsn"] = show_lsn(recovery.lsn)
            if recovery.name:
                settings["recovery_target_name"] = recovery.name
            if recovery.immediate:
                settings["recovery_target"] = "immediate"
            with logging_server(self.server.programs.major, folder, settings=settings) as server:
                await_end_of_recovery(server)
                yield server

    def transactions_after(self, found):
        with self.carried_out(found.backup, found.recovery) as server:
            return require_balanced(server.url().reveal()).transactions


@pytest.fixture(scope="module", params=EVERY)
def story(request):
    with open_folder() as folder:
        archive = folder / "archive"
        archive.mkdir()
        give_to_server(archive)
        settings = {"archive_mode": "on", "archive_command": f"cp %p {archive}/%f"}
        with logging_server(request.param, folder / "server", settings=settings) as server:
            told = Story(server, folder, Archive(archive))
            fill(server)
            told.note("before")
            with load(server, clients=2):
                told.backup()
                told.backup()
            run(server, 20)
            told.note("middle")
            told.ask("SELECT pg_create_restore_point('the middle')")
            run(server, 20)
            told.note("end")
            told.ask("SELECT pg_switch_wal()")
            # Stopping in order has the last segment archived.
        yield told


def test_a_random_moment_is_reached_and_the_books_balance(story):
    # Up to the last transaction: a server cannot stop at a time that no later one follows.
    (window,) = recoverable(story.bases, story.archive)
    begin, end = story.bases[0].ready, window.end
    seed = random.randrange(1 << 32)
    time = begin + random.Random(seed).random() * (end - begin)
    found = story.plan(time=time)
    with story.carried_out(found.backup, found.recovery) as server:
        require_balanced(server.url().reveal())
        with psycopg.connect(server.url().reveal()) as connection:
            last = connection.execute("SELECT max(mtime) FROM pgbench_history").fetchone()[0]
    # pgbench notes when a transaction began, so none of those that came back did so later.
    assert last.replace(tzinfo=dt.UTC) <= time, f"seed {seed}"


def test_a_time_between_two_states_is_the_first_of_them(story):
    assert story.transactions_after(story.plan(time=story.times["middle"])) == story.transactions["middle"]


def test_the_last_transaction_of_all_can_be_reached_though_no_later_one_follows(story):
    (window,) = recoverable(story.bases, story.archive)
    found = story.plan(time=window.end)
    assert found.recovery.time is None
    assert story.transactions_after(found) == story.transactions["end"]


def test_what_is_refused_as_too_late_the_server_cannot_reach_either(story):
    late = story.times["end"] + dt.timedelta(hours=1)
    with pytest.raises(UsageError, match="does not go on to"):
        story.plan(time=late)
    with pytest.raises(SourceError, match="before configured recovery target was reached"):
        with story.carried_out("backup-2", Recovery(time=late)):
            pass


def test_what_is_refused_as_too_early_for_a_backup_the_server_cannot_reach_either(story):
    early = story.bases[1].start
    with pytest.raises(UsageError, match="before the end"):
        plan(story.bases, lambda system: story.archive, Recovery(lsn=early), exact="backup-2")
    with pytest.raises(SourceError, match="before consistent recovery point"):
        with story.carried_out("backup-2", Recovery(lsn=early)):
            pass


def test_a_restore_point_is_reached(story):
    assert story.transactions_after(story.plan(name="the middle")) == story.transactions["middle"]


def test_a_position_is_reached(story):
    assert story.transactions_after(story.plan(lsn=story.lsns["middle"])) == story.transactions["middle"]


def test_without_a_target_everything_comes_back(story):
    assert story.transactions_after(story.plan()) == story.transactions["end"]


def test_immediate_ends_where_the_backup_did(story):
    found = story.plan(immediate=True)
    assert story.transactions["before"] <= story.transactions_after(found) <= story.transactions["middle"]
