"""A server that speaks replication, and a vault's log, in memory: for models of the receiver."""

import random
from types import SimpleNamespace

from keepwell.core.clock import FakeClock
from keepwell.core.errors import SourceError, StoreError
from keepwell.core.progress import Silent
from keepwell.core.streams import Context
from keepwell.core.wal import Fork, history_name, show_lsn
from keepwell.operations.wal_contracts import Plan
from keepwell.operations.wal_receiver import Receiver
from keepwell.operations.wal_start import merge
from keepwell.sources.physical import stream
from keepwell.sources.physical.slot import SlotState

SEGMENT = 4096


class Killed(BaseException):
    """kill -9: nothing may handle it."""


class ServerError(SourceError):
    def __init__(self, message, state=""):
        super().__init__(message)
        self.state = state


class ToyArchive:
    """A vault's log; `fail` is asked before and after each put what shall go wrong."""

    def __init__(self):
        self.objects = {}
        self.files = {}
        self.first = {}
        self.fail = lambda when: None

    def put(self, timeline, start, data, *, segment_size, time):
        assert start // segment_size == (start + len(data) - 1) // segment_size, "a piece leaves its segment"
        self.fail("before")
        key = (timeline, start, start + len(data))
        known = self.objects.setdefault(key, bytes(data))
        assert known == bytes(data), "other bytes under the same name"
        self.first.setdefault(timeline, len(self.files))
        self.fail("after")

    def put_file(self, name, data, *, time):
        self.fail("before")
        assert self.files.setdefault(name, data) == data

    def coverage(self):
        self.fail("before")
        parts = [SimpleNamespace(timeline=timeline) for timeline, _, _ in self.objects]
        return SimpleNamespace(parts=parts, spans=self.spans)

    def spans(self, timeline):
        spans = []
        for known, start, end in self.objects:
            if known == timeline:
                spans = merge(spans, start, end)
        return spans

    def has(self, timeline, start, end):
        return start >= end or any(low <= start and end <= high for low, high in self.spans(timeline))


class ToyServer:
    """Logs by timeline; one slot by name; `available`: from where on it still has log."""

    def __init__(self, log=b"", segment=SEGMENT):
        self.segment, self.system = segment, "7001"
        self.logs = {1: bytearray(log)}
        self.forks = []
        self.timeline, self.available = 1, 0
        self.slots = {}
        self.standby = False
        self.busy = False
        self.asks = False
        """It wants an answer all the time, as one that shuts down."""
        self.confirmed = []
        """(timeline, flushed) as it was told."""
        self.settings = {"wal_sender_timeout": "1min", "max_slot_wal_keep_size": "-1", "synchronous_standby_names": ""}

    @property
    def position(self):
        return len(self.logs[self.timeline])

    def write(self, data):
        self.logs[self.timeline] += data

    def promote(self, at=None):
        """A new timeline, from `at` on; what came later on the old one is there no more."""
        at = self.position if at is None else at
        self.forks.append(Fork(self.timeline, at, "promoted"))
        self.logs[self.timeline + 1] = self.logs[self.timeline][:at]
        self.timeline += 1

    def ended(self, timeline):
        return next((fork.end for fork in self.forks if fork.timeline == timeline), None)

    def history(self, timeline):
        lines = [
            f"{fork.timeline}\t{show_lsn(fork.end)}\t{fork.reason}\n" for fork in self.forks if fork.timeline < timeline
        ]
        return "".join(lines).encode()


class ToyLink:
    server_version = 180000

    def __init__(self, server, clock, choose):
        self.server, self.clock, self.choose = server, clock, choose

    def identify(self):
        server = self.server
        return SimpleNamespace(system=server.system, timeline=server.timeline, position=server.position, database=None)

    def show(self, name):
        known = {
            "wal_segment_size": f"{self.server.segment}B",
            "in_hot_standby": "on" if self.server.standby else "off",
        }
        return {**self.server.settings, **known}[name]

    def timeline_history(self, timeline):
        return history_name(timeline), self.server.history(timeline)

    def query(self, command):
        server, (verb, name, *_) = self.server, command.split()
        if verb == "READ_REPLICATION_SLOT":
            if name not in server.slots:
                return [{"slot_type": None, "restart_lsn": None}]
            restart = server.slots[name]
            return [{"slot_type": "physical", "restart_lsn": None if restart is None else show_lsn(restart)}]
        if verb == "CREATE_REPLICATION_SLOT":
            server.slots[name] = max(server.available, server.position - self.choose.randrange(2 * SEGMENT))
        if verb == "DROP_REPLICATION_SLOT":
            del server.slots[name]
        return []

    def copy_both(self, command):
        _, _, name, _, where, _, timeline = command.split()
        if self.server.busy:
            raise ServerError("replication slot is active for PID 42", "55006")
        high, low = where.split("/")
        start = int(high, 16) << 32 | int(low, 16)
        copy = ToyCopy(self, name.strip('"'), int(timeline), start)
        self.started(copy)
        return copy

    def close(self):
        pass


class ToyCopy:
    def __init__(self, link, slot, timeline, start):
        self.link, self.server, self.slot, self.timeline = link, link.server, slot, timeline
        self.start = self.at = start
        self.closed = self.flowing = False
        end = self.server.ended(timeline)
        assert start <= (len(self.server.logs[timeline]) if end is None else end)

    def receive(self, timeout):
        server, choose = self.server, self.link.choose
        self.link.event(self)
        if self.closed:
            return None
        if self.at - self.at % server.segment < server.available:
            raise ServerError("requested WAL segment has already been removed", "58P01")
        ended = server.ended(self.timeline)
        limit = len(server.logs[self.timeline]) if ended is None else ended
        if self.at < limit:
            end = min(limit, self.at + choose.randint(1, 3000))
            data = bytes(server.logs[self.timeline][self.at : end])
            message = stream._DATA.pack(b"w", self.at, limit, 10**15) + data
            self.at, self.flowing = end, True
            return message
        if ended is not None:
            self.closed = True
            return None
        self.link.clock.sleep(max(timeout, 0.01))
        if server.asks or choose.random() < 0.2:
            return stream._KEEPALIVE.pack(b"k", limit, 10**15, server.asks or choose.random() < 0.5)
        return None

    def send(self, data):
        _, written, flushed, _, _, _ = stream._STATUS.unpack(data)
        assert flushed <= written <= self.at
        if flushed or not self.start:  # PostgreSQL, whose log never begins at 0, takes that for no report
            self.server.slots[self.slot] = flushed
        self.server.confirmed.append((self.timeline, flushed))
        self.link.told(self.timeline, flushed)

    def finish(self):
        ended = self.server.ended(self.timeline)
        if self.closed and ended is not None and self.at >= ended:
            return [{"next_tli": str(self.timeline + 1), "next_tli_startpos": show_lsn(ended)}]
        self.closed = True
        return []


class ToyWorkers:
    """Puts when asked for outcomes, in any order."""

    def __init__(self, put, clock, choose):
        self.put, self.clock, self.choose, self.todo = put, clock, choose, []

    def submit(self, piece):
        self.todo.append(piece)

    def outcomes(self, wait):
        if not self.todo:
            self.clock.sleep(max(wait, 0.0))
            return []
        if self.choose.random() < 0.3:  # not yet
            self.clock.sleep(0.01 + max(wait, 0.0))
            return []
        piece = self.todo.pop(self.choose.randrange(len(self.todo)))
        try:
            self.put(piece)
        except Exception as error:
            return [(piece, error)]
        return [(piece, None)]

    def close(self):
        pass


class World:
    """A server, a vault, and receivers that come and go. `event(copy)` is called before each message."""

    def __init__(self, seed=1, log=b"", segment=SEGMENT):
        self.choose = random.Random(seed)
        self.clock, self.progress = FakeClock(), Silent()
        self.server, self.archive = ToyServer(log, segment), ToyArchive()
        self.event = lambda copy: None
        self.started = lambda copy: None
        self.connecting = lambda: None
        self.told = lambda timeline, flushed: None
        self.stop = False
        self.notes = []
        self.progress.note = self.notes.append

    def link(self):
        self.connecting()
        link = ToyLink(self.server, self.clock, self.choose)
        link.event, link.told, link.started = self.event, self.told, self.started
        return link

    def receiver(self, state=None, **plan):
        context = Context(clock=self.clock, progress=self.progress, cancelled=lambda: self.stop)
        return Receiver(
            Plan("keepwell_production_app", "production/app", **plan),
            self.link,
            lambda system: self.archive,
            lambda put: ToyWorkers(put, self.clock, self.choose),
            context,
            slot_state=lambda: state or SlotState("keepwell_production_app", True, wal_status="lost"),
        )

    def run(self, **plan):
        return self.receiver(**plan).run()


def outage():
    return StoreError("the store is away", hint="Wait.")
