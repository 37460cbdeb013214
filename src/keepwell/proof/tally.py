"""Which bytes of a backup were read and found authentic, so that a proof reads each of them only once.

A restore reads nearly everything; fetching it all a second time would double the time, and the bill of a cloud store.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from keepwell.core.streams import Buffer, Put, Streams


class Tally:
    """Streams that pass everything on and keep what was read."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._read: dict[str, list[tuple[int, int]]] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        return self._streams.names()

    def size(self, name: str) -> int:
        return self._streams.size(name)

    def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        at = start
        for block in self._streams.read(name, start, length):
            self._add(name, at, at + len(block))
            at += len(block)
            yield block

    def scatter(self, name: str, put: Put) -> None:
        def noted(parts: list[tuple[int, Buffer]]) -> None:
            for at, part in parts:
                self._add(name, at, at + len(part))
            put(parts)

        self._streams.scatter(name, noted)

    def unread(self, name: str) -> list[tuple[int, int]]:
        """Ranges (start, length) that nobody has read yet."""
        gaps, at = [], 0
        with self._lock:
            seen = sorted(self._read.get(name, ()))
        for start, end in [*seen, (self.size(name), self.size(name))]:
            if start > at:
                gaps.append((at, start - at))
            at = max(at, end)
        return gaps

    def _add(self, name: str, start: int, end: int) -> None:
        with self._lock:
            ranges = self._read.setdefault(name, [])
            # Mostly one read goes on where the last one ended.
            if ranges and ranges[-1][1] == start:
                ranges[-1] = (ranges[-1][0], end)
            elif end > start:
                ranges.append((start, end))
