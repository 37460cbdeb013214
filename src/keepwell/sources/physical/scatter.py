"""Writing a cluster's files from streams whose bytes come in any order, by several threads."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator

from keepwell.core import buffers, pastcache
from keepwell.core.errors import Damaged, Interrupted, SourceError
from keepwell.core.streams import Buffer, Context, Streams
from keepwell.sources.physical.entries import CONTENT, PAGES, Entry
from keepwell.sources.physical.layout import Layout

PAGE = 8192
_DIRECT_FROM = 128 << 10
"""Small writes wait for the disk one by one: those are quicker through the cache."""
Local = Callable[[str], str]


class Scatter:
    """Fills files that are there in their full size. With `delta` only pages are written that differ from what is there;
    without it the files are new, and pages of zeros stay holes.

    `durable`: each file is on the disk as soon as all of it was written; pages go there past the page cache where the file
    system can do that. A cluster is often larger than the memory, and the cache would only cost time (docs/why/speed.md).
    """

    def __init__(self, layout: Layout, local: Local, context: Context, *, delta: bool, durable: bool = False) -> None:
        self._layout, self._local, self._context, self._delta = layout, local, context, delta
        self._direct = durable and not delta and bool(pastcache.FLAG)
        self._lock = threading.Lock()
        self._durable = durable
        self._left = {entry.path: entry.size for entry in layout.files.values() if entry.size}
        self.written = 0
        """Bytes written; not more than that was different."""

    def run(self, streams: Streams, task: str) -> None:
        """Raises Damaged, SourceError, Interrupted, and what the store raises."""
        for name in (PAGES, CONTENT):
            if name in streams.names():
                streams.scatter(name, functools.partial(self._write, name, task))
        lacking = [path for path, left in self._left.items() if left]
        if lacking:
            raise Damaged(f"the backup did not give all bytes of {lacking[0]}")

    def _write(self, stream: str, task: str, parts: list[tuple[int, Buffer]]) -> None:
        if self._context.cancelled():
            raise Interrupted("the restore was interrupted", hint="Start it again.")
        written = given = 0
        for at, data in _joined(parts):
            view = memoryview(data)
            given += len(view)
            for entry, offset, start, count in self._layout.parts(stream, at, len(view)):
                written += self._fill(entry, offset, view[start : start + count])
        with self._lock:
            self.written += written
        self._context.progress.advance(task, given)

    def _fill(self, entry: Entry, offset: int, data: memoryview) -> int:
        path = self._local(entry.path)
        written = 0
        large = entry.stream == PAGES and len(data) >= _DIRECT_FROM
        if self._direct and large and (done := self._fill_directly(entry, path, offset, data)) is not None:
            return done
        try:
            handle = os.open(path, (os.O_RDWR if self._delta else os.O_WRONLY) | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                for low, high in self._runs(handle, offset, data, entry.stream == PAGES):
                    _write_all(handle, data[low:high], offset + low)
                    written += high - low
                self._filled(handle, entry, len(data))
            finally:
                os.close(handle)
        except OSError as error:
            raise SourceError(
                f"cannot write {path}: {error.strerror}", hint="See that there is room, and the rights to write there."
            ) from error
        return written

    def _fill_directly(self, entry: Entry, path: str, offset: int, data: memoryview) -> int | None:
        """Bytes written; None where the file system cannot do it, or the data are no whole pages."""
        if offset % PAGE or len(data) % PAGE:
            return None
        written = 0
        try:
            handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | pastcache.FLAG)
            try:
                for low, high in _differing(data, None):
                    for at in range(low, high, buffers.AT_ONCE):
                        part = data[at : min(high, at + buffers.AT_ONCE)]
                        _write_all(handle, buffers.aligned(part), offset + at)
                    written += high - low
                self._filled(handle, entry, len(data))
            finally:
                os.close(handle)
        except OSError as error:
            if error.errno not in pastcache.REFUSALS:
                raise SourceError(
                    f"cannot write {path}: {error.strerror}",
                    hint="See that there is room, and the rights to write there.",
                ) from error
            self._direct = False
            return None
        return written

    def _filled(self, handle: int, entry: Entry, count: int) -> None:
        """So many more bytes of the file are what they should be."""
        with self._lock:
            self._left[entry.path] -= count
            whole = not self._left[entry.path]
        try:
            if whole and self._durable:
                os.fsync(handle)
        except OSError as error:
            raise SourceError(
                f"{entry.path} could not be made durable: {error.strerror}", hint="Look at the disk (dmesg, df)."
            ) from error

    def _runs(self, handle: int, offset: int, data: memoryview, pages: bool) -> Iterator[tuple[int, int]]:
        """What of the data must be written."""
        if not self._delta:
            return _differing(data, None) if pages else iter([(0, len(data))])
        there = os.pread(handle, len(data), offset)
        if there == data:
            return iter(())
        return _differing(data, there.ljust(len(data), b"\0"))


def _joined(parts: list[tuple[int, Buffer]]) -> Iterator[tuple[int, Buffer]]:
    """In the order of their places; small ones that follow each other as one, good until the next is asked for."""
    parts.sort(key=lambda part: part[0])
    first = 0
    for index, (at, part) in enumerate(parts):
        following = parts[index + 1] if index + 1 < len(parts) else (-1, b"")
        if following[0] != at + len(part) or len(part) >= _DIRECT_FROM or len(following[1]) >= _DIRECT_FROM:
            run = parts[first : index + 1]
            yield run[0][0], run[0][1] if len(run) == 1 else buffers.gathered([data for _, data in run])
            first = index + 1


def _differing(data: memoryview, there: bytes | None) -> Iterator[tuple[int, int]]:
    """Runs of pages that are not as `there`; None: not zeros. What is no whole page at the end is written."""
    import numpy as np  # here, since it takes a tenth of a second

    whole = len(data) // PAGE * PAGE
    if whole:
        new = np.frombuffer(data[:whole], np.uint64).reshape(-1, PAGE // 8)
        if there is None:
            # Nearly every page begins with its place in the log, and need not be looked at any further.
            changed = new[:, 0] != 0
            if changed.all():
                yield 0, len(data)
                return
            changed[~changed] = new[~changed].any(axis=1)
        else:
            changed = (new != np.frombuffer(there[:whole], np.uint64).reshape(-1, PAGE // 8)).any(axis=1)
        edges = np.flatnonzero(np.diff(np.concatenate(([False], changed, [False])).astype(np.int8)))
        for low, high in edges.reshape(-1, 2).tolist():
            yield low * PAGE, high * PAGE
    if whole < len(data) and (there is None or there[whole:] != data[whole:]):
        yield whole, len(data)


def _write_all(handle: int, data: memoryview, at: int) -> None:
    while len(data):
        count = os.pwrite(handle, data, at)
        data, at = data[count:], at + count


def compare(layout: Layout, local: Local, streams: Streams, context: Context, task: str) -> Iterator[tuple[str, str]]:
    """Path and problem of each file that does not have the bytes of the streams, read from their beginning to their end, so
    that the digest of each whole stream is compared as well. Raises Damaged, Interrupted.
    """
    there = set(streams.names())
    wrong: set[str] = set()
    for name in (PAGES, CONTENT):
        at = 0
        for block in streams.read(name) if name in there else ():
            if context.cancelled():
                raise Interrupted("the proof was interrupted", hint="Nothing was changed; start it again.")
            view = memoryview(block)
            for entry, offset, start, count in layout.parts(name, at, len(view)):
                problem = (
                    None if entry.path in wrong else _problem(local(entry.path), offset, view[start : start + count])
                )
                if problem:
                    wrong.add(entry.path)
                    yield entry.path, problem
            at += len(view)
            context.progress.advance(task, len(view))
    for path, entry in layout.files.items():
        try:
            size = os.lstat(local(path)).st_size
        except OSError:
            size = -1
        if size != entry.size and path not in wrong:
            yield path, "is missing" if size < 0 else f"has {size} bytes; {entry.size} were backed up"


def _problem(path: str, offset: int, data: memoryview) -> str | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    try:
        found = os.pread(handle, len(data), offset)
    finally:
        os.close(handle)
    if found == data:
        return None
    if len(found) < len(data):
        return f"ends at byte {offset + len(found)}, within what was backed up"
    first = next(i for i in range(0, len(data), PAGE) if found[i : i + PAGE] != data[i : i + PAGE])
    return f"differs from the backup in block {(offset + first) // PAGE}"
