"""Segments of a log that never was: they begin as PostgreSQL's do, and hold noise."""

import random
import struct

from keepwell.core.wal import parse_segment, segment_name

SYSTEM = "7301234567890123456"
_PAGE = struct.Struct("=HHIQI4xQII")


def segment(name, size=1 << 20, *, system=SYSTEM, seed=1, timeline=None):
    """The content of a segment; the same for the same name and seed."""
    own, start = parse_segment(name, size)
    head = _PAGE.pack(0xD110, 2, timeline or own, start, 0, int(system), size, 8192)
    noise = random.Random(f"{name} {seed}").randbytes(min(size, 64 << 10))
    return (head + noise * (size // len(noise)))[:size]


def names(first, count, timeline=1, size=1 << 20):
    return [segment_name(timeline, (first + n) * size, size) for n in range(count)]


class Cluster:
    """A data directory with `pg_wal`, `archive_status` and `pg_control`, as far as commands of the log look at it."""

    def __init__(self, folder, *, size=1 << 20, system=SYSTEM):
        self.folder, self.size, self.system = folder, size, system
        self.wal = folder / "pg_wal"
        self.status = self.wal / "archive_status"
        self.status.mkdir(parents=True)
        (folder / "global").mkdir()
        (folder / "global" / "pg_control").write_bytes(struct.pack("=Q", int(system)) + bytes(100))

    def finish(self, name, data=None, *, seed=1):
        """The server has finished a file and wants it archived."""
        path = self.wal / name
        path.write_bytes(segment(name, self.size, system=self.system, seed=seed) if data is None else data)
        (self.status / f"{name}.ready").touch()
        return path
