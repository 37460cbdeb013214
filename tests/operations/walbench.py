"""A real vault and receivers for real servers: each receiver in a thread, watched without sleeping."""

import threading

import psycopg

from keepwell.core.clock import SystemClock
from keepwell.core.errors import StoreError
from keepwell.core.streams import Context
from keepwell.core.wal import parse_segment
from keepwell.keys.slots import read_key_file
from keepwell.operations.wal_contracts import Plan
from keepwell.operations.wal_delivery import Threads
from keepwell.operations.wal_receiver import Receiver
from keepwell.sources.physical.replication import Replication
from keepwell.sources.physical.slot import slot_state
from keepwell.sources.postgres.server import ThrowawayServer
from keepwell.stores import open_store
from keepwell.stores.faulty import FaultyStore
from keepwell.vault.vault import Vault

SLOT = "keepwell_production_app"
SETTINGS = {
    "wal_level": "replica",
    "max_wal_senders": "6",
    "max_replication_slots": "4",
    "wal_keep_size": "4GB",
    "synchronous_commit": "on",
    "hot_standby": "on",
}
_LONG = 60


class WeakStore(FaultyStore):
    """Away as long as `away` is set."""

    away = False

    def _call(self, verb, name, act):
        if self.away:
            raise StoreError("the store is away")
        return super()._call(verb, name, act)


class Bench:
    def __init__(self, folder):
        self.folder = folder
        key = folder / "vault.key"
        if not key.exists():
            store = open_store(f"file://{folder}/vault", {}, create=True)
            Vault.create(store, now=SystemClock().now(), key_file=key, cache=folder / "cache")
        self.store = WeakStore(open_store(f"file://{folder}/vault", {}))
        self.vault = Vault.open(self.store, read_key_file(key), cache=folder / "cache")

    def archive(self, system):
        return self.vault.wal("production", "app", system)

    def receiver(self, url, context=None, **plan):
        return Receiver(
            Plan(SLOT, "production/app", **{"every": 0.5, **plan}),
            lambda: Replication.connect(url() if callable(url) else url, application=SLOT),
            self.archive,
            Threads,
            context or Context(),
            slot_state=lambda: slot_state(url() if callable(url) else url, SLOT),
        )

    def once(self, url, **plan):
        return self.receiver(url, once=True, **plan).run()

    def same(self, server, received, start=None, timeline=1, end=None):
        """The vault's log is the server's files, byte for byte, from where it begins (or `start`) to `end`."""
        archive = self.archive(received.system)
        spans = archive.coverage().spans(timeline)
        assert len(spans) == 1, spans
        low, high = spans[0]
        assert start is None or low <= start
        assert high >= (end or received.position)
        compared = 0
        for path in sorted((server.data / "pg_wal").iterdir()):
            name = path.name
            if len(name) != 24:
                continue
            line, begin = parse_segment(name)
            until = min(high, begin + (16 << 20))
            if line == timeline and begin >= low and until > begin:
                assert archive.read(timeline, begin, until - begin) == path.read_bytes()[: until - begin], name
                compared += until - begin
        assert compared
        return compared


class Running:
    """A receiver in a thread. `until(...)` waits for what it reports or stores."""

    def __init__(self, bench, url, **plan):
        self.stop, self.error, self.received = threading.Event(), None, None
        self.notes, self.warnings = [], []
        self._news = threading.Condition()
        context = Context(progress=self, cancelled=self.stop.is_set)
        self.receiver = bench.receiver(url, context, **plan)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self.stop.set()
        self._thread.join(_LONG)
        assert not self._thread.is_alive()

    def _run(self):
        try:
            self.received = self.receiver.run()
        except BaseException as error:
            self.error = error
        finally:
            self._told()

    def _told(self):
        with self._news:
            self._news.notify_all()

    def note(self, text):
        self.notes.append(text)
        self._told()

    def warn(self, text):
        self.warnings.append(text)
        self._told()

    def begin(self, *_):
        pass

    end_task = advance = begin

    def until(self, is_so):
        with self._news:
            while not is_so(self):
                assert self._thread.is_alive(), f"the receiver ended: {self.error}"
                # Bytes that are stored are told to nobody but the server: those are looked for.
                if not self._news.wait(0.05):
                    _LIMIT.check(self)

    def stored(self, position):
        self.until(lambda me: me.receiver.received.position >= position)


class _Limit:
    def check(self, running):
        running.looks = getattr(running, "looks", 0) + 1
        assert running.looks < 20 * _LONG, (running.notes, running.warnings, running.receiver.received)


_LIMIT = _Limit()


def server(programs, folder, **settings):
    return ThrowawayServer(programs, folder, settings={**SETTINGS, **settings})


def run(server, *commands):
    with psycopg.connect(server.url().reveal(), autocommit=True) as connection:
        for command in commands:
            found = connection.execute(command)
    return found.fetchone() if found.description else None


def write(server, rows=20_000):
    run(
        server,
        "CREATE TABLE IF NOT EXISTS t (n bigint, x text)",
        f"INSERT INTO t SELECT n, md5(n::text) || repeat('x', 100) FROM generate_series(1, {rows}) n",
    )
    return position(server)


def position(server):
    (text,) = run(server, "SELECT pg_current_wal_flush_lsn()::text")
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)
