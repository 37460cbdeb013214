"""Which entries a restore asks for, and which parts of `content` they lie in."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Iterator

from keepwell.core.errors import Damaged, UsageError
from keepwell.core.streams import Streams
from keepwell.sources.files.entries import CONTENT, FOLDER, HARDLINK, ROOT, Entry, show

Extents = list[tuple[int, int]]
"""Parts of `content`: where each begins and ends, in order, with gaps between them."""
_MOST_NAMES = 20_000


class Selection:
    """The entries at or below the given paths, and the folders that lead there; all where none are given."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._wanted = {_normal(path) for path in paths} - {ROOT}
        self._all = not self._wanted or any(_normal(path) == ROOT for path in paths)
        self._above = {path[:at] for path in self._wanted for at in range(len(path)) if path[at : at + 1] == b"/"}

        self.first_names: set[bytes] = set()
        """After `survey`: the files that hard links refer to."""

    def takes(self, path: bytes) -> bool:
        return self._all or path == ROOT or path in self._above or self.asked(path)

    def asked(self, path: bytes) -> bool:
        """Itself or a folder above it was asked for by name."""
        if self._all or path in self._wanted:
            return True
        return any(path.startswith(wanted + b"/") for wanted in self._wanted)

    def survey(self, entries: Iterable[Entry]) -> tuple[Extents, int]:
        """The parts of `content` to read for the taken entries and their size in bytes.

        Raises UsageError where a path that was asked for is not there, with names that are near.
        """
        extents: Extents = []
        missing = set(self._wanted)
        near: list[str] = []
        for entry in entries:
            # Objects of a bucket lie below folders that no entry is of.
            missing = missing and {
                path for path in missing if path != entry.path and not entry.path.startswith(path + b"/")
            }
            if self._wanted and len(near) < _MOST_NAMES:
                near.append(show(entry.path) + ("/" if entry.type == FOLDER else ""))
            if entry.type == HARDLINK:
                self.first_names.add(entry.target)
            if self.takes(entry.path) and entry.has_content and entry.size:
                extents.append((entry.offset, entry.offset + entry.size))
        if missing:
            path = show(min(missing))
            found = difflib.get_close_matches(path, near, 3, 0.5)
            found += [name for name in near if name.rstrip("/").endswith("/" + path.rsplit("/", 1)[-1])][:3]
            raise UsageError(
                f"there is no {path!r} in this backup",
                hint=f"Near to it: {', '.join(dict.fromkeys(found))}."
                if found
                else "Paths start at the source's root.",
            )
        merged = _merged(extents)
        return merged, sum(end - start for start, end in merged)


class Reader:
    """Gives the contents of files from as few reads of the stream as their order allows."""

    def __init__(self, streams: Streams, extents: Extents) -> None:
        self._streams = streams
        self._extents = extents
        self._next = 0
        self._blocks: Iterator[bytes] = iter(())
        self._at = -1
        self._end = -1
        self._block = memoryview(b"")
        self._size = streams.size(CONTENT)

    def read(self, entry: Entry, between: Callable[[], None]) -> Iterator[memoryview]:
        """The bytes of the file, in blocks. Raises Damaged rather than give fewer."""
        at, left = entry.offset, entry.size
        if left and at != self._at:
            self._seek(at, left)
        while left:
            between()
            if not self._block:
                block = next(self._blocks, None)
                if block is None:
                    raise Damaged(
                        f"the content of {show(entry.path)} ends too early",
                        hint="Run `keepwell check`, and restore an older backup or a copy.",
                    )
                self._block = memoryview(block)
                continue
            part = self._block[:left]
            self._block = self._block[len(part) :]
            self._at += len(part)
            left -= len(part)
            yield part

    def _seek(self, at: int, size: int) -> None:
        end = at + size
        for number in range(self._next, len(self._extents)):
            start, stop = self._extents[number]
            if start <= at < stop:
                self._next, end = number, stop
                break
        if end > self._size:
            raise Damaged(
                "the list of files refers to content that the backup does not have",
                hint="Run `keepwell check`, and restore an older backup or a copy.",
            )
        self._blocks = self._streams.read(CONTENT, at, end - at)
        self._block, self._at = memoryview(b""), at


def _normal(path: str) -> bytes:
    """`./uploads/a/` is `uploads/a`. Raises UsageError for a path that leads out of the root."""
    names = [name for name in os.fsencode(path).split(b"/") if name not in (b"", b".")]
    if b".." in names:
        raise UsageError(f"{path!r} leads out of the source", hint="Give paths relative to the source's root.")
    return b"/".join(names) or ROOT


def _merged(extents: Extents) -> Extents:
    merged: Extents = []
    for start, end in sorted(extents):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
