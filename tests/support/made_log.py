"""A write-ahead log made by hand: records laid into pages as PostgreSQL does, with the times that a test wants."""

import datetime as dt
import struct

from keepwell.sources.physical.records import PAGE, Scanner, stamp_of

SEGMENT = 1 << 20
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
