"""Reading one file into the stream `content`, the same bytes from beginning to end if at all possible."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from blake3 import blake3

from keepwell.core.streams import StreamWriter
from keepwell.sources.files.attributes import read_xattrs
from keepwell.sources.files.walk import Found

_BLOCK = 1 << 20
_TRIES = 3
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""Without waiting: a pipe may have taken the place of the file."""


@dataclass(slots=True)
class Stored:
    stat: os.stat_result
    size: int
    offset: int
    digest: str
    ids: bytes
    steady: bool
    """False: it was being written the whole time; what is stored is one reading of it."""
    xattrs: tuple[tuple[bytes, bytes], ...]


class Contents:
    def __init__(self, writer: StreamWriter, step: Callable[[int], None]) -> None:
        self.writer = writer
        self._step = step
        self._buffer = memoryview(bytearray(_BLOCK))

    def store(self, found: Found) -> Stored:
        """Read and append the file. Raises OSError; FileNotFoundError also where it is no regular file any more."""
        handle = os.open(found.name, _OPEN, dir_fd=found.parent)
        try:
            for attempt in range(1, _TRIES + 1):
                before = os.fstat(handle)
                if not stat.S_ISREG(before.st_mode):
                    raise FileNotFoundError
                last = attempt == _TRIES
                stored = self._small(handle, before, last) if before.st_size <= _BLOCK else self._large(handle, before)
                if stored.steady or last:
                    return stored
                os.close(handle)  # it may have been replaced, not written: open what has the name now
                handle = -1
                handle = os.open(found.name, _OPEN, dir_fd=found.parent)
        finally:
            if handle >= 0:
                os.close(handle)
        raise AssertionError("the last try returns")

    def reuse(self, ids: bytes, size: int) -> int | None:
        """Append what an earlier backup has; the offset, or None where it is no longer there."""
        self.writer.boundary()
        offset = self.writer.position
        return offset if self.writer.reuse(ids, size) else None

    def _small(self, handle: int, before: os.stat_result, last: bool) -> Stored:
        """Whole in memory first, so that a try that fails leaves nothing in the stream."""
        size = self._fill(handle, before.st_size)
        steady = _same(before, os.fstat(handle)) and size == before.st_size
        data = self._buffer[:size]
        stored = Stored(before, size, self.writer.position, "", b"", steady, read_xattrs(handle))
        if steady or last:
            stored.digest = blake3(data).hexdigest()
            if size:
                self.writer.boundary()
                self.writer.write(data)
                stored.ids = self.writer.take_ids()
            self._step(size)
        return stored

    def _large(self, handle: int, before: os.stat_result) -> Stored:
        """As it is read; a try that fails leaves bytes that nothing refers to and that deduplicate."""
        hasher = blake3()
        self.writer.boundary()
        offset, size = self.writer.position, 0
        while size < before.st_size and (count := self._fill(handle, min(_BLOCK, before.st_size - size))):
            hasher.update(self._buffer[:count])
            self.writer.write(self._buffer[:count])
            size += count
            self._step(count)
        ids = self.writer.take_ids()
        steady = _same(before, os.fstat(handle)) and size == before.st_size
        return Stored(before, size, offset, hasher.hexdigest(), ids, steady, read_xattrs(handle))

    def _fill(self, handle: int, size: int) -> int:
        done = 0
        while done < size and (count := os.readv(handle, [self._buffer[done:size]])):
            done += count
        return done


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )
