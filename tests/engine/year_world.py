"""A project, two stores and a machine that serves, in a time that passes only when the test lets it."""

import collections
import contextlib
import datetime as dt
import heapq
import itertools
import shutil
import sqlite3
import types
from dataclasses import dataclass
from unittest.mock import Mock

from keepwell.core.clock import UTC, FakeClock
from keepwell.core.errors import StoreError
from keepwell.core.progress import Silent
from keepwell.core.streams import Context
from keepwell.engine.makeup import made_up
from keepwell.engine.planner import Planner
from keepwell.engine.service import group_of, patience_of
from keepwell.engine.workman import Workman, document
from keepwell.keys.slots import read_key_file
from keepwell.operations.backup import BackupRequest, backup
from keepwell.operations.init import init
from keepwell.policy.load import load
from keepwell.stores.faulty import FaultyStore
from keepwell.stores.memory import MemoryStore
from keepwell.vault.vault import Vault
from keepwell.watch.book import Book
from keepwell.watch.book import place as book_place
from keepwell.watch.look import Watcher
from keepwell.watch.runs import ending_of_backup, watched

MINUTE, HOUR, DAY = dt.timedelta(minutes=1), dt.timedelta(hours=1), dt.timedelta(days=1)

POLICY = """\
version = 1
project = "Lead Management System"

[vault]
store = "file:///near"
key = { file = "vault.key" }

[[copies]]
name = "offsite"
store = "file:///offsite"
schedule = "0 6 * * 6"
keep = { daily = "7d", weekly = 6, monthly = 20, manual = 1 }

[[copies]]
name = "attic"
store = "file:///attic"
schedule = "0 6 * * 6"
keep = { daily = 1, weekly = 1, monthly = 3, manual = 1 }

[environments.production]
schedule = "0 2 * * *"
keep = { daily = "30d", weekly = 12, monthly = { age = "200d", count = 3 } }
sources.app = { type = "sqlite", path = "app.db" }
sources.uploads = { type = "files", path = "uploads" }

[environments.staging]
schedule = "30 2 * * sun"
timezone = "Europe/Berlin"
jitter = "10m"
sources.app = { type = "sqlite", path = "staging.db" }

[environments.development]
sources.app = { type = "sqlite", path = "development.db" }

[watch]
capacity = "1 TB"

[notify.pager]
url = { env = "PAGER" }
on = ["success", "warning", "failure"]
"""


class Down(dict):
    """Plan of a FaultyStore: every call fails."""

    def get(self, number, default=None):
        return "before"


class MachineClock:
    """The machine's own: what passes is true, what it shows may be wrong."""

    def __init__(self, true):
        self.true, self.apart = true, dt.timedelta(0)

    def now(self):
        return self.true.now() + self.apart

    def monotonic(self):
        return self.true.monotonic()

    def sleep(self, seconds):
        self.true.sleep(seconds)


class Marks:
    """The planner's memory, as the engine's database keeps it: to a second."""

    def __init__(self):
        self.until = {}

    def marks(self):
        return dict(self.until)

    def mark(self, until):
        self.until |= {name: moment.replace(microsecond=0) for name, moment in until.items()}


@dataclass(frozen=True)
class Told:
    """One message that a person got."""

    at: dt.datetime
    kind: str
    """`opened`, `over`, `again` or `success`."""
    alert: str


class World:
    def __init__(self, folder, monkeypatch, start):
        self.folder, self.clock = folder, FakeClock(start)
        self.machine = MachineClock(self.clock)
        self.stores, self.told, self.done, self.after_job = {}, [], [], lambda job, result: None
        self._agenda, self._numbers = [], itertools.count()
        self._queue, self._groups, self._known = collections.deque(), set(), set()
        self.serving = False
        self.trouble = 0
        """How many outages are under way: then looks come as often as people would want them."""
        self._patch(monkeypatch)
        (folder / "keepwell.toml").write_text(POLICY)
        self.loaded = load(folder / "keepwell.toml")
        self.context = Context(progress=Silent(), clock=self.machine, cache=folder / "cache")
        self.marks = Marks()
        self.sources = Sources(folder)
        init(self.loaded, self.context)

    def _patch(self, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(self.folder / "xdg"))
        monkeypatch.setenv("PAGER", "json://pager")
        monkeypatch.setattr("keepwell.operations.opening.open_store", self._open_store)
        monkeypatch.setattr("keepwell.watch.notify.send", self._hear)
        monkeypatch.setattr("keepwell.engine.workman.tidy", lambda: None)  # a fifth of the time, and the test is short
        for module in ("planner", "workman"):
            monkeypatch.setattr(f"keepwell.engine.{module}._LOG", Mock())

    def _open_store(self, url, options=None, *, create=False, lock=None):
        store = self.store(url)
        if isinstance(store.plan, Down):
            raise StoreError(f"{url} does not answer")
        return store

    def store(self, url):
        if url not in self.stores:
            self.stores[url] = FaultyStore(MemoryStore(self.clock, name=url.removeprefix("file:///")))
        return self.stores[url]

    def _hear(self, channel, url, letter):
        if letter.tone in {"success", "over"}:
            kind = letter.tone
        else:
            kind = "again" if "still: " in letter.title else "opened"
        self.told.append(Told(self.clock.now(), kind, letter.facts.get("alert", "")))

    # Time

    def at(self, moment, act):
        """`act` is called at that true moment."""
        heapq.heappush(self._agenda, (moment, next(self._numbers), act))

    def until(self, end):
        while self._agenda and self._agenda[0][0] <= end:
            moment, _, act = heapq.heappop(self._agenda)
            self._move(moment)
            act()
        self._move(end)

    def _move(self, moment):
        if moment > self.clock.now():  # what was done meanwhile may have taken longer
            self.clock.advance(moment - self.clock.now())

    # The process that serves

    def start(self):
        """`keepwell serve` begins: what it remembers is in the vault, in the engine's database and in the book."""
        stopping = types.SimpleNamespace(is_set=lambda: False, wait=lambda seconds: self.until(self._in(seconds)))
        self.planner = Planner(lambda: self.loaded, self.marks, self._enqueue, self.machine)
        self.man = Workman(
            lambda: self.loaded,
            self.context,
            types.SimpleNamespace(permit=lambda ident, worker: contextlib.nullcontext()),
            "machine",
            self._enqueue,
            lambda: patience_of(self.loaded),
            stopping,
            stopping,
        )
        self.watcher = Watcher(self.loaded)
        self.serving = True
        self._life = life = object()
        self._plan(life)
        self._look(life)

    def stop(self):
        self.serving, self._life = False, None

    def _in(self, seconds):
        return self.clock.now() + dt.timedelta(seconds=seconds)

    def _enqueue(self, job):
        if job.ident not in self._known:
            self._known.add(job.ident)
            (self._queue.appendleft if job.kind == "backup" else self._queue.append)(job)

    def _plan(self, life):
        if life is not self._life:
            return
        now = self.clock.now()
        # In the hours in which something is due it looks every five minutes, to begin late by no more than that.
        pause = 5 * MINUTE if now.hour < 3 or now.minute else HOUR
        self.at(now.replace(second=0, microsecond=0) + pause - now.minute % 5 * MINUTE, lambda: self._plan(life))
        self.planner.look()
        self._work()

    def _work(self):
        for _ in range(len(self._queue)):
            if not self._queue:  # while one waits to be tried again, others are done
                return
            job = self._queue.popleft()
            if group_of(job) in self._groups:
                self._queue.append(job)
                continue
            self._groups.add(group_of(job))
            try:
                self.done.append((job, self.man(job.ident, document(job))))
            finally:
                self._groups.discard(group_of(job))
            self.after_job(*self.done[-1])

    def _look(self, life):
        if life is not self._life:
            return
        pause = 10 * MINUTE if self.trouble else 12 * HOUR
        self.at(self.clock.now() + pause, lambda: self._look(life))
        for job in made_up(self.loaded.policy, self.look()):
            self._enqueue(job)
        self._work()

    def look(self):
        with self.book.turn() as pages:
            if pages.note("looked") and self._looked_by is self._life:
                # It looks every minute. In calm hours most of these looks are left out: nothing would be found.
                pages.write("looked", (self.machine.now() - MINUTE).strftime("%Y-%m-%dT%H:%M:%SZ"))
        self._looked_by = self._life
        return self.watcher.look(self.context, steady=True)

    _looked_by = None

    @property
    def book(self):
        return Book(book_place(self.loaded))

    # People

    def by_hand(self, environment):
        with watched(self.loaded, self.context, "backup", environment) as run:
            result = backup(self.loaded, BackupRequest(environment), self.context)
            run.ended(ending_of_backup(result))

    def news(self):
        """What was told of troubles, oldest first."""
        return [told for told in self.told if told.kind in {"opened", "over"}]

    def listed(self, name):
        """The backups of one store, as any machine would list them."""
        store = self.store(f"file:///{name}").inner
        if not store.objects:
            return {}
        vault = Vault.open(store, self._key, cache=self.folder / "listing" / name)
        return {str(b.id): b for b in vault.backups()}

    @property
    def _key(self):
        return read_key_file(self.folder / "vault.key")


class Sources:
    """What is backed up: tiny, and another every day."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "uploads").mkdir()
        for name in ("app", "staging", "development"):
            with self._opened(name) as db:
                db.execute("create table days (day text primary key)")

    @contextlib.contextmanager
    def _opened(self, name):
        with contextlib.closing(sqlite3.connect(self.folder / f"{name}.db", isolation_level=None)) as db:
            db.execute("pragma synchronous = off")
            db.execute("pragma journal_mode = memory")
            yield db

    def write(self, day):
        """The day's work; where a source is gone, nobody works on it."""
        for name in ("app", "staging", "development"):
            if (self.folder / f"{name}.db").exists():
                with self._opened(name) as db:
                    db.execute("insert or ignore into days values (?)", (str(day),))
        if (self.folder / "uploads").exists():
            (self.folder / "uploads" / "today.txt").write_text(f"{day}\n")

    def lose(self, name):
        shutil.move(self.folder / name, self.folder / f"{name}.gone")

    def bring_back(self, name):
        shutil.move(self.folder / f"{name}.gone", self.folder / name)


def at(text):
    return dt.datetime.fromisoformat(text).replace(tzinfo=UTC)
