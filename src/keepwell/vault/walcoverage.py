"""What log a vault has, by the names of its objects alone."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from keepwell.core.errors import Damaged
from keepwell.core.wal import Fork, parse_history, segment_name
from keepwell.stores.base import ObjectInfo

_PART = re.compile(r"([0-9A-F]{8})/([0-9A-F]{24})/([0-9A-F]{16})-([0-9A-F]{16})")
_HISTORY = re.compile(r"([0-9A-F]{8})\.history")
Read = Callable[[int, int, int], bytes]


@dataclass(frozen=True)
class Part:
    """An object with log; `start` and `end` count from the log's very beginning."""

    timeline: int
    start: int
    end: int
    name: str
    size: int
    """Of the object."""
    modified: dt.datetime
    """By the store's clock."""
    segment: str

    @property
    def length(self) -> int:
        return self.end - self.start


def part_name(timeline: int, start: int, end: int, segment_size: int) -> str:
    """Below the folder of the system."""
    return f"{timeline:08X}/{segment_name(timeline, start, segment_size)}/{start:016X}-{end:016X}"


def parse_part(folder: str, info: ObjectInfo) -> Part | None:
    """None where the object is no part that could have been put."""
    found = _PART.fullmatch(info.name.removeprefix(folder))
    if not found:
        return None
    timeline, start, end = int(found[1], 16), int(found[3], 16), int(found[4], 16)
    if found[2][:8] != found[1] or start >= end or int(found[2][8:16], 16) != start >> 32:
        return None
    return Part(timeline, start, end, info.name, info.size, info.modified, found[2])


def _size_of(part: Part) -> int | None:
    """The segments' size, where the name tells it: number of the segment against position."""
    number, low = int(part.segment[16:], 16), part.start & 0xFFFFFFFF
    if number == 0:  # the first of each 4 GiB begins with them, whatever the size
        return None
    fits = [1 << n for n in range(20, 31) if low >> n == number]
    return fits[0] if len(fits) == 1 else None


@dataclass
class Coverage:
    """The log of one cluster. `histories` gives a timeline's ancestors, reading their file when it is asked for."""

    parts: list[Part]
    files: list[str] = field(default_factory=list)
    """Names of the files beside the log: histories and the like."""
    read_history: Callable[[str], bytes] = field(default=lambda _: b"", repr=False)
    read: Read = field(default=lambda *_: b"", repr=False)
    """`WalArchive.read`, so that a coverage can be read from by itself."""
    _read: dict[int, list[Fork]] = field(default_factory=dict, repr=False)

    @cached_property
    def segment_size(self) -> int | None:
        """None where no name tells it: there is no log, or only of a segment with the number 0 (`WalArchive.segment_size`)."""
        for part in self.parts:
            if size := _size_of(part):
                return size
        return None

    @cached_property
    def _spans(self) -> dict[int, list[tuple[int, int]]]:
        by_timeline: dict[int, list[tuple[int, int]]] = {}
        for part in sorted(self.parts, key=lambda p: (p.timeline, p.start)):
            spans = by_timeline.setdefault(part.timeline, [])
            if spans and part.start <= spans[-1][1]:
                spans[-1] = (spans[-1][0], max(spans[-1][1], part.end))
            else:
                spans.append((part.start, part.end))
        return by_timeline

    @property
    def histories(self) -> Mapping[int, list[Fork]]:
        """Of every timeline whose history is there."""
        known = [int(found[1], 16) for name in self.files if (found := _HISTORY.fullmatch(name))]
        return {timeline: self.history(timeline) for timeline in sorted(known)}

    def timelines(self) -> list[int]:
        """Those that there is any log of, ascending."""
        return sorted(self._spans)

    def newest_timeline(self) -> int | None:
        return max(self._spans, default=None)

    def history(self, timeline: int) -> list[Fork]:
        """Its ancestors, oldest first; empty for the first timeline, and where its history is not there.

        Raises Damaged, KeyCannotRead, StoreError.
        """
        if timeline not in self._read:
            name = f"{timeline:08X}.history"
            if name not in self.files:
                return []
            text = self.read_history(name).decode("utf-8", "replace")
            try:
                self._read[timeline] = parse_history(text)
            except ValueError as error:
                raise Damaged(
                    f"{name} in the vault is no history of a timeline: {error}",
                    hint="Its log can only be followed with the server's own file. Recovery with --timeline current stays on the "
                    "timeline of the backup.",
                ) from None
        return self._read[timeline]

    def spans(self, timeline: int) -> list[tuple[int, int]]:
        """What there is, ascending; parts that touch or overlap are one."""
        return list(self._spans.get(timeline, ()))

    def end(self, timeline: int) -> int | None:
        spans = self._spans.get(timeline)
        return spans[-1][1] if spans else None

    def gaps(self, timeline: int) -> list[tuple[int, int]]:
        spans = self._spans.get(timeline, [])
        return [(left[1], right[0]) for left, right in pairwise(spans)]

    def has(self, timeline: int, start: int, end: int) -> bool:
        return start >= end or any(low <= start and end <= high for low, high in self._spans.get(timeline, ()))

    def path_to(self, timeline: int, from_timeline: int, from_lsn: int) -> list[tuple[int, int, int]]:
        """The log from a position on one timeline to the end of another, along its history: (timeline, start, end) each.

        Ends at the first gap. Raises ValueError where the other does not lead on from there.
        """
        forks = self.history(timeline)
        ways = [(fork.timeline, fork.end) for fork in forks if fork.timeline >= from_timeline] + [(timeline, None)]
        if ways[0][0] != from_timeline or (ways[0][1] is not None and ways[0][1] < from_lsn):
            raise ValueError(f"timeline {timeline} does not lead on from timeline {from_timeline} there")
        at, found = from_lsn, list[tuple[int, int, int]]()
        for number, limit in ways:
            span = next(((low, high) for low, high in self.spans(number) if low <= at < high), None)
            end = at if span is None else span[1] if limit is None else min(span[1], limit)
            if end > at:
                found.append((number, at, end))
                at = end
            if limit is not None and at < limit:
                break
        return found


def coverage_of(
    folder: str, objects: Iterable[ObjectInfo], read_history: Callable[[str], bytes], read: Read
) -> Coverage:
    """From a listing of the folder of one system."""
    parts, files = [], []
    for info in objects:
        if info.name.startswith(folder + "files/"):
            files.append(info.name.removeprefix(folder + "files/"))
        elif part := parse_part(folder, info):
            parts.append(part)
    return Coverage(sorted(parts, key=lambda p: (p.timeline, p.start, -p.end)), files, read_history, read)
