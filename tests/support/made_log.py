"""A write-ahead log made by hand: records laid into pages as PostgreSQL does, with the times that a test wants."""

import datetime as dt
import struct

from keepwell.core.wal import Fork, show_lsn
from keepwell.operations.logpath import Base
from keepwell.operations.moments import plan
from keepwell.sources.base import Recovery
from keepwell.sources.physical.records import PAGE, Scanner, stamp_of

SEGMENT = 1 << 20
MINUTE = dt.timedelta(minutes=1)
NOW = dt.datetime(2026, 11, 22, 14, 30, 0, 250_000, tzinfo=dt.UTC)


class Made:
    """Log of one cluster from `start` on, in segments of 1 MiB."""

    def __init__(self, start=SEGMENT, system=77):
        self.start, self.data, self.system, self.previous = start, bytearray(), system, 0
        self.places = []

    @property
    def at(self):
        return self.start + len(self.data)

    def page(self, flags=0, remaining=0):
        long = self.at % SEGMENT == 0
        self.data += struct.pack("<HHIQI4x", 0xD118, flags | (2 if long else 0), 1, self.at, remaining)
        if long:
            self.data += struct.pack("<QII", self.system, SEGMENT, PAGE)

    def record(self, manager, info, body, xid=7):
        main = struct.pack("<BI", 254, len(body)) + body
        total = 24 + len(main)
        if self.at % PAGE == 0:
            self.page()
        here = self.at
        raw = struct.pack("<IIQBB2xI", total, xid, self.previous, info, manager, 0) + main
        raw += bytes(-total % 8)
        self.places.append(here)
        self.write(raw)
        self.previous = here
        return here

    def write(self, raw):
        while raw:
            if self.at % PAGE == 0:
                self.page(1, len(raw))
            room = PAGE - self.at % PAGE
            self.data += raw[:room]
            raw = raw[room:]

    def commit(self, time=NOW, padding=0, xid=7):
        return self.record(1, 0x00, struct.pack("<q", stamp_of(time)) + bytes(padding), xid)

    def fill_page(self, leave):
        """So much room is left on the page."""
        if PAGE - self.at % PAGE < leave + 32:
            self.record(10, 0, bytes(300))
        if self.at % PAGE == 0:
            self.page()
        self.record(10, 0, bytes(PAGE - self.at % PAGE - leave - 29))
        assert -self.at % PAGE == leave

    def scan(self, size=None):
        scanner = Scanner(segment_size=SEGMENT)
        return scanner, scanner.feed(self.start, bytes(self.data[:size]))


class History:
    """A server's life: one commit a minute from NOW on, backups in between; and the log of it, with holes to order."""

    def __init__(self):
        self.made = {1: Made()}
        self.timeline = 1
        self.histories = {}
        self.time = NOW
        self.bases = []
        self.commits = []  # (position, end, time)
        self.missing = []
        self.reads = []

    @property
    def log(self):
        return self.made[self.timeline]

    def commit(self, count=1):
        for _ in range(count):
            self.time += MINUTE
            lsn = self.log.commit(self.time)
            self.commits.append((lsn, self.log.at, self.time))
        return self

    def idle(self, segments=1):
        """The server switches to a new segment, as archive_timeout has it do."""
        for _ in range(segments):
            self.log.record(0, 0x40, b"")
            self.log.data += bytes(-self.log.at % SEGMENT)
        return self

    def bulk(self, segments=1):
        """Log without the end of a transaction."""
        for _ in range(segments * 16):
            self.log.record(10, 0, bytes((1 << 16) - 60))
        return self

    def checkpoint(self, time=None):
        self.log.record(0, 0x10, bytes(64) + struct.pack("<q", int((time or self.time).timestamp())) + bytes(16))
        return self

    def point(self, name):
        self.log.record(0, 0x70, struct.pack("<q64s", stamp_of(self.time), name.encode()))
        return self

    def backup(self):
        start = self.log.at
        self.log.record(0, 0x10, bytes(64) + struct.pack("<q", int(self.time.timestamp())) + bytes(16))
        self.log.record(0, 0x50, bytes(8))
        stop = self.log.at
        self.bases.append(
            Base(
                f"production/{len(self.bases) + 1}",
                "77",
                self.timeline,
                start,
                stop,
                self.time + dt.timedelta(seconds=0.5),
                SEGMENT,
            )
        )
        return self.idle()

    def promote(self):
        """A new timeline from here on."""
        fork, old = self.log.at, self.log
        self.histories[self.timeline + 1] = [*self.histories.get(self.timeline, []), Fork(self.timeline, fork)]
        self.timeline += 1
        new = Made(start=fork - fork % SEGMENT)
        new.data += old.data[new.start - old.start :]
        new.previous = old.previous
        self.made[self.timeline] = new
        return self

    def lose(self, start, end, timeline=1):
        self.missing.append((timeline, start, end))
        return self

    # The log as the vault offers it.

    def timelines(self):
        return sorted(self.made)

    def history(self, timeline):
        return self.histories.get(timeline, [])

    def spans(self, timeline):
        made = self.made.get(timeline)
        if made is None:
            return []
        spans = [(made.start, made.at)]
        for lost, start, end in self.missing:
            if lost == timeline:
                spans = [
                    piece for a, b in spans for piece in ((a, min(b, start)), (max(a, end), b)) if piece[0] < piece[1]
                ]
        return spans

    def read(self, timeline, start, length):
        assert any(a <= start and start + length <= b for a, b in self.spans(timeline)), show_lsn(start)
        self.reads.append(length)
        made = self.made[timeline]
        return bytes(made.data[start - made.start : start - made.start + length])

    def plan(self, exact=None, **wanted):
        return plan(self.bases, lambda system: self, Recovery(**wanted), exact=exact)
