"""Streams kept a second time while they flow into the vault: a portable copy is made from them.

A writer key cannot read back what it has just stored, so the copy is made from what flowed by.
"""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from keepwell.core import zstd
from keepwell.core.errors import Damaged
from keepwell.core.streams import Buffer, Cut, Held, Put, Sink, StreamWriter, in_order

_BLOCK = 1 << 20


class Spool:
    """A Sink that passes everything on to another, and Streams over what it kept in a private folder.

    Kept in compressed blocks, so that it needs a fraction of the source's size. Where the disk does not take it, the
    backup goes on without: `trouble` then says why there is no copy.
    """

    def __init__(self, sink: Sink, folder: Path) -> None:
        self.trouble: OSError | None = None
        self._sink, self._folder = sink, folder
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()

    def stream(self, name: str, cut: Cut = "content") -> StreamWriter:
        writer = self._sink.stream(name, cut)
        with self._lock:
            try:
                kept = _Kept(self._folder / f"stream-{len(self._kept)}")
            except OSError as error:
                self.trouble = error
                return writer
            self._kept[name] = kept
        return _Both(writer, kept, self)

    def names(self) -> list[str]:
        return list(self._kept)

    def size(self, name: str) -> int:
        return self._kept[name].size

    def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        yield from self._kept[name].read(start, self.size(name) - start if length is None else length)

    def scatter(self, name: str, put: Put) -> None:
        in_order(self, name, put)

    def find(self, ids: Buffer) -> Held | None:
        """None while a copy is kept: it needs the bytes."""
        return self._sink.find(ids) if self.trouble is not None else None

    def spread(self, held: Held) -> float:
        return self._sink.spread(held)

    def close(self) -> None:
        for kept in self._kept.values():
            kept.close()


class _Kept:
    """One stream in a file: blocks of `_BLOCK` bytes, each compressed by itself."""

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._file: BinaryIO = path.open("x+b")
        self._waiting = bytearray()
        self._starts: list[int] = []
        self._places: list[tuple[int, int]] = []
        self._end = 0
        self._lock = threading.Lock()

    def write(self, data: Buffer) -> None:
        self._waiting += data
        if len(self._waiting) >= _BLOCK:
            self._put()

    def finish(self) -> None:
        if self._waiting:
            self._put()
        self._file.flush()

    def _put(self) -> None:
        packed = zstd.compress(self._waiting, 1)
        self._file.write(packed)
        self._starts.append(self.size)
        self._places.append((self._end, len(packed)))
        self._end += len(packed)
        self.size += len(self._waiting)
        self._waiting = bytearray()

    def read(self, start: int, length: int) -> Iterator[bytes]:
        stop = start + length
        if stop > self.size:
            raise Damaged(f"the copy on disk has {self.size} bytes; {stop} were asked for")
        at = max(bisect_right(self._starts, start) - 1, 0)
        while start < stop:
            offset, size = self._places[at]
            with self._lock:
                self._file.seek(offset)
                packed = self._file.read(size)
            block = zstd.decompress(packed)
            begin = self._starts[at]
            yield block[start - begin : stop - begin]
            start, at = begin + len(block), at + 1

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written any more is not needed any more
            self._file.close()


class _Both:
    """A StreamWriter that also keeps what it is given."""

    def __init__(self, writer: StreamWriter, kept: _Kept, spool: Spool) -> None:
        self._writer, self._kept, self._spool = writer, kept, spool
        self.boundary, self.take_ids, self.room = writer.boundary, writer.take_ids, writer.room

    @property
    def position(self) -> int:
        return self._writer.position

    def write(self, data: Buffer) -> None:
        self._writer.write(data)
        if self._spool.trouble is None:
            try:
                self._kept.write(data)
            except OSError as error:
                self._spool.trouble = error

    def reuse(self, ids: bytes | Held, size: int) -> bool:
        """Known files are read nevertheless, since the copy needs their bytes; without a copy they are not."""
        return self._spool.trouble is not None and self._writer.reuse(ids, size)

    def overlay(self, pages: Held, places: Sequence[int], data: Buffer) -> None:
        self._writer.overlay(pages, places, data)  # without a copy: else nothing is found to be held

    def anew(self, on: bool) -> None:
        self._writer.anew(on)

    def close(self) -> None:
        self._writer.close()
        if self._spool.trouble is None:
            try:
                self._kept.finish()
            except OSError as error:
                self._spool.trouble = error
