"""The whole story: backups and log of a server that never rests, and the cluster as it was at a moment.

pgbench runs through everything. Whatever the moment, the sums that each of its transactions keeps equal must be equal.
"""

import contextlib
import datetime as dt
import random
import threading
from dataclasses import dataclass, field

import psycopg
import pytest

from keepwell.core.clock import SystemClock
from keepwell.core.errors import UsageError
from keepwell.core.progress import Silent
from keepwell.core.streams import Context
from keepwell.core.wal import parse_lsn
from keepwell.operations.backup import BackupRequest, backup
from keepwell.operations.check import CheckRequest, check
from keepwell.operations.copy import CopyRequest, copy
from keepwell.operations.init import init
from keepwell.operations.opening import open_vault
from keepwell.operations.physical_restore import Wish
from keepwell.operations.recovering import windows_of
from keepwell.operations.restore import RestoreRequest, restore
from keepwell.operations.wal_push import PushRequest, push
from keepwell.operations.wal_receive import ReceiveRequest, receive
from keepwell.policy.load import load
from keepwell.sources.base import Recovery
from keepwell.sources.physical import start
from support.physical_load import fill, give_to_server, logging_server, open_folder, require_balanced
from support.physical_load import load as pgbench

pytestmark = pytest.mark.slow

POLICY = """\
version = 1
project = "Moments"

[vault]
store = "file://{folder}/vault"
key = {{ file = "vault.key" }}

[environments.production.sources.app]
type = "postgres"
method = "physical"
url = {{ file = "url" }}
"""


class Listening(Silent):
    """Remembers what people would have been told."""

    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)

    warn = note


@dataclass
class Place:
    """A server under load, its policy and vault, and places to recover to."""

    server: object
    folder: object
    way: str
    backups: list = field(default_factory=list)
    points: list = field(default_factory=list)
    """(time, position, transactions) of moments at which nothing was going on."""

    @property
    def loaded(self):
        return load(self.folder / "keepwell.toml")

    def context(self, **more):
        return Context(**{"cache": self.folder / "cache", "clock": SystemClock()} | more)

    def ask(self, sql):
        with psycopg.connect(self.server.url().reveal(), autocommit=True) as connection:
            return connection.execute(sql).fetchone()[0]

    def prepare(self):
        """The restored server's own settings, which the running one's command line overrides."""
        self.sockets = self.folder / "sockets"
        self.sockets.mkdir(mode=0o700)
        give_to_server(self.sockets)
        with (self.server.data / "postgresql.conf").open("a") as conf:
            conf.write(f"unix_socket_directories = '{self.sockets}'\nlisten_addresses = ''\nport = 5432\n")
            conf.write("max_connections = 40\nmax_wal_senders = 10\nfsync = off\n")
        (self.folder / "keepwell.toml").write_text(POLICY.format(folder=self.folder))
        (self.folder / "url").write_text(self.server.url().reveal())
        (self.folder / "url").chmod(0o600)
        init(self.loaded, self.context())

    def back_up(self):
        self.backups.append(backup(self.loaded, BackupRequest("production"), self.context()).backup)

    def work(self):
        """Back when pgbench has done some more transactions."""
        with psycopg.connect(self.server.url().reveal(), autocommit=True) as connection:
            count = "SELECT count(*) FROM pgbench_history"
            wanted = connection.execute(count).fetchone()[0] + 300
            while connection.execute(count).fetchone()[0] < wanted:
                connection.execute("SELECT pg_sleep(0.02)")

    def note(self):
        state = require_balanced(self.server.url().reveal())
        lsn = parse_lsn(self.ask("SELECT pg_current_wal_insert_lsn()::text"))
        self.points.append((self.ask("SELECT clock_timestamp()"), lsn, state.transactions))

    @contextlib.contextmanager
    def receiving(self):
        """The receiver runs through the block and ends in order; where log is pushed instead, nothing does."""
        if self.way == "push":
            yield
            return
        ended, failures = threading.Event(), []

        def run():
            try:
                receive(self.loaded, ReceiveRequest(every=0.3), self.context(cancelled=ended.is_set))
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            while not failures and not self.ask("SELECT count(*) FROM pg_replication_slots WHERE active"):
                pass
            yield
        finally:
            ended.set()
            thread.join()
        assert not failures

    def catch_up(self):
        """All log is in the vault, by the way that is on trial."""
        if self.way == "push":
            self.ask("SELECT pg_switch_wal()")
            status = self.server.data / "pg_wal" / "archive_status"
            for ready in sorted(status.glob("*.ready")):
                push(self.loaded, PushRequest(self.server.data / "pg_wal" / ready.stem), self.context())
        else:
            lsn = parse_lsn(self.ask("SELECT pg_current_wal_flush_lsn()::text"))
            receive(self.loaded, ReceiveRequest(until=lsn), self.context())

    def window(self):
        vault = open_vault(self.loaded)
        (system,) = vault.wal_systems("production", "app")
        archive = vault.wal("production", "app", system)
        (window,) = windows_of(vault.backups(), "production", "app", system, archive)
        return window

    def restore(self, to, *, backup="production@latest", delta=False, **recovery):
        wish = Wish(Recovery(**recovery), delta=delta, start=True)
        progress = Listening()
        request = RestoreRequest(backup, source="app", to=str(to), wish=wish)
        done = restore(self.loaded, request, self.context(progress=progress)).sources["app"]
        assert any("of log in" in text for text in progress.said), "the plan is told beforehand"
        return done

    @contextlib.contextmanager
    def recovered(self, to, **wanted):
        """The restore's result and the address of the server that runs in `to`; it is stopped at the end."""
        try:
            done = self.restore(to, **wanted)
            yield done, f"host={self.sockets} port=5432 user=postgres dbname=postgres"
        finally:
            if (to / "postmaster.pid").exists():
                start.stop(self.server.programs, to)


@pytest.fixture(
    scope="module",
    params=[(15, "push"), (18, "receive")],
    ids=lambda param: f"postgres{param[0]}-{param[1]}",
)
def place(request):
    major, way = request.param
    settings = {"archive_mode": "on", "archive_command": "false"} if way == "push" else {}
    if major >= 17:
        settings["summarize_wal"] = "on"
    with open_folder() as folder, logging_server(major, folder / "server", settings=settings) as server:
        found = Place(server, folder, way)
        found.prepare()
        fill(server, scale=2)
        with found.receiving():
            with pgbench(server, clients=2):
                found.back_up()
                found.work()
                found.back_up()
                found.work()
            found.note()
            found.ask("SELECT pg_create_restore_point('half way')")
            for _ in range(2):
                with pgbench(server, clients=2):
                    found.work()
                found.note()
        found.catch_up()
        yield found


@pytest.fixture
def to():
    with open_folder() as folder:
        folder.chmod(0o755)
        yield folder / "recovered"


def test_a_random_moment_of_the_window_comes_back_with_its_books_balanced(place, to):
    seed = random.randrange(1 << 32)
    window = place.window()
    moment = window.begin + random.Random(seed).random() * (window.end - window.begin)
    with place.recovered(to, time=moment) as (done, url):
        require_balanced(url)
        with psycopg.connect(url) as connection:
            last = connection.execute("SELECT max(mtime) FROM pgbench_history").fetchone()[0]
        assert last is None or last.replace(tzinfo=dt.UTC) <= moment, f"seed {seed}"
        assert done.plan.moment is None or done.plan.moment.time <= moment, f"seed {seed}"


def test_every_quiet_moment_comes_back_exactly(place, to):
    # After the last one no transaction follows, so the log does not show that the server ever was beyond it.
    for number, (moment, _, transactions) in enumerate(place.points[:-1]):
        # The second time into the same directory, rewriting what differs.
        with place.recovered(to, time=moment, delta=number > 0) as (done, url):
            assert require_balanced(url).transactions == transactions
            assert parse_lsn(done.report.reached["lsn"]) <= done.plan.log[-1][2]


def test_without_a_target_nothing_is_lost(place, to):
    with place.recovered(to) as (_, url):
        assert require_balanced(url).transactions == place.points[-1][2]


def test_the_end_of_a_backup_under_load_is_a_state_that_was(place, to):
    with place.recovered(to, immediate=True) as (_, url):
        assert 0 < require_balanced(url).transactions < place.points[0][2]


def test_a_position_is_reached(place, to):
    _, lsn, transactions = place.points[0]
    with place.recovered(to, lsn=lsn) as (done, url):
        assert parse_lsn(done.report.reached["lsn"]) >= lsn
        assert require_balanced(url).transactions == transactions


def test_a_restore_point_is_reached_from_the_first_backup_too(place, to):
    with place.recovered(to, backup=str(place.backups[0]), name="half way") as (done, url):
        assert done.plan.backup == str(place.backups[0])
        assert require_balanced(url).transactions == place.points[0][2]


def test_what_cannot_be_reached_is_refused_before_anything_is_written(place, to):
    with pytest.raises(UsageError, match="does not go on to"):
        place.restore(to, time=place.points[-1][0] + dt.timedelta(days=1))
    with pytest.raises(UsageError, match="before the end of the oldest backup"):
        place.restore(to, time=place.points[0][0] - dt.timedelta(days=1))
    assert not to.exists()


@pytest.mark.parametrize("place", [(15, "push")], ids=["postgres15-push"], indirect=True)
def test_a_moment_comes_back_from_a_copy_when_the_first_store_is_gone(place, to):
    moment, _, transactions = place.points[0]
    policy, own = place.folder / "keepwell.toml", place.folder / "vault"
    before = policy.read_text()
    policy.write_text(before + f'\n[[copies]]\nname = "far"\nstore = "file://{place.folder}/far"\n')
    assert copy(place.loaded, CopyRequest(), place.context()).clean
    own.rename(place.folder / "lost")
    try:
        with place.recovered(to, time=moment) as (_, url):
            assert require_balanced(url).transactions == transactions
        # What a machine does that has nothing left but the copy: it is the vault. `check` looks at its log, too.
        policy.write_text(before.replace("/vault", "/far"))
        assert check(place.loaded, CheckRequest(), place.context()).report.passed
        parts = sorted((place.folder / "far").glob("wal/production/app/*/00000001/*/*"))
        parts[-2].unlink()
        found = check(place.loaded, CheckRequest(), place.context()).report
        assert any("log is missing" in finding.problem for finding in found.findings)
    finally:
        (place.folder / "lost").rename(own)
        policy.write_text(before)
