"""The log that leads on from a backup: over timelines, up to the first gap; and looking for moments in it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from keepwell.core.clock import from_iso
from keepwell.core.errors import Damaged
from keepwell.core.streams import Json
from keepwell.core.wal import DEFAULT_SEGMENT, Fork, parse_lsn, show_lsn
from keepwell.sources.physical.records import Moment, Scanner, stamp_of

_WINDOW = 1 << 20
"""So much is read at once: a look at a segment's beginning need not fetch all of it."""


class Log(Protocol):
    """The log of one cluster, as `vault.walcoverage.Coverage` has it. Positions are bytes from the beginning of the log."""

    def timelines(self) -> list[int]:
        """Those that there is any log of, ascending."""
        ...

    def spans(self, timeline: int) -> list[tuple[int, int]]:
        """What there is of a timeline, ascending, merged: (start, end) each."""
        ...

    def history(self, timeline: int) -> list[Fork]:
        """Its ancestors, oldest first, each with the position where it was left; empty for the first timeline."""
        ...

    def read(self, timeline: int, start: int, length: int) -> bytes:
        """Verified bytes of a span. Raises Damaged, StoreError."""
        ...


@dataclass(frozen=True)
class Base:
    """A backup that a recovery may begin with, as far as the log is concerned."""

    backup: str
    """Its id."""
    system: str
    timeline: int
    start: int
    """From where on it needs log; all up to `stop` is in the backup itself."""
    stop: int
    """Where it is consistent, so the earliest that can be recovered to."""
    time: dt.datetime
    """When it ended, by the server's clock."""
    segment_size: int = DEFAULT_SEGMENT
    standby: bool = False
    """Taken from a standby, which does not begin a new segment at the end."""

    @classmethod
    def of(cls, backup: str, wal: Mapping[str, Json]) -> Base:
        """From `facts["wal"]`. Raises Damaged."""
        try:
            return cls(
                backup,
                str(wal["system"]),
                int(wal["timeline"]),
                parse_lsn(wal["start"]),
                parse_lsn(wal["stop"]),
                from_iso(wal["time"]),
                int(wal.get("segment_size", DEFAULT_SEGMENT)),
                # Where it is not said, nothing is taken for granted: see `_own_end`.
                bool(wal.get("standby", True)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"{backup} does not say what log belongs to it ({error})") from None

    @property
    def ready(self) -> dt.datetime:
        """The earliest time to recover to: where it was noted in whole seconds, the next one, which is surely after it."""
        return self.time if self.time.microsecond else self.time + dt.timedelta(seconds=1)


@dataclass(frozen=True)
class Stretch:
    """Log of one timeline without a gap."""

    timeline: int
    start: int
    end: int
    held: int
    """From where on the vault has it; later than `start` only where the backup itself has what is between."""


@dataclass(frozen=True)
class Path:
    """All the log that leads on from a base without a gap."""

    base: Base
    timeline: int
    """Where it leads; the last stretch is of an ancestor where there is no log of this timeline (yet)."""
    stretches: tuple[Stretch, ...]
    """From the base's `stop` on; empty: there is nothing beyond the backup."""
    gap: tuple[int, int, int] | None
    """Timeline, first missing position and where the log goes on, where there is more behind the end."""

    @property
    def end(self) -> int:
        return self.stretches[-1].end if self.stretches else self.base.stop

    def until(self, position: int) -> list[tuple[int, int, int]]:
        """What a recovery to a position replays, from the base's `start`: (timeline, start, end) each."""
        base = self.base
        replayed = [(base.timeline, base.start, base.stop)]
        for stretch in self.stretches:
            end = min(stretch.end, position)
            if end <= stretch.start:
                break
            start = replayed.pop()[1] if replayed[-1][0] == stretch.timeline else stretch.start
            replayed.append((stretch.timeline, start, end))
        return replayed


def descendants(log: Log, base: Base) -> list[int]:
    """The timelines that a recovery of the base can follow, ascending; its own is one of them."""
    found = {base.timeline}
    for timeline in log.timelines():
        if any(fork.timeline == base.timeline and fork.end >= base.stop for fork in log.history(timeline)):
            found.add(timeline)
    return sorted(found)


def without_history(log: Log, base: Base) -> list[int]:
    """Later timelines of which nobody can tell where they began."""
    return [timeline for timeline in log.timelines() if timeline > base.timeline and not log.history(timeline)]


def path(log: Log, base: Base, timeline: int) -> Path:
    """The log from the base's end on to `timeline`, which must be one of its `descendants`."""
    limits: list[tuple[int, int | None]] = [
        *((fork.timeline, fork.end) for fork in log.history(timeline) if fork.timeline >= base.timeline),
        (timeline, None),
    ]
    at, stretches = base.stop, list[Stretch]()
    for number, limit in limits:
        if limit is not None and at >= limit:
            continue
        span = _span(log.spans(number), at, _own_end(base) if at == base.stop else at)
        if span is None:
            break
        end = span[1] if limit is None else min(span[1], limit)
        if end > at:
            stretches.append(Stretch(number, at, end, span[0]))
            at = end
        if limit is not None and at < limit:
            break
    return Path(base, timeline, tuple(stretches), _gap(log, limits, at))


def _own_end(base: Base) -> int:
    """To where the backup itself surely has log: to the end of a segment, where the server began a new one at its end."""
    return base.stop if base.standby else -(-base.stop // base.segment_size) * base.segment_size


def _span(spans: list[tuple[int, int]], at: int, latest: int) -> tuple[int, int] | None:
    """The span that goes on from `at`, or from anywhere up to `latest`."""
    return next(((start, end) for start, end in spans if start <= latest and end > at), None)


def _gap(log: Log, limits: list[tuple[int, int | None]], at: int) -> tuple[int, int, int] | None:
    """What is missing at `at`, where the log goes on behind it."""
    missing, begins = 0, 0
    for number, limit in limits:
        if limit is not None and limit <= at:
            begins = limit
            continue
        missing = missing or number
        for start, end in log.spans(number):
            there = max(start, begins)
            if end > max(at, there) and there > at and (limit is None or there < limit):
                return missing, at, there
        begins = limit or begins
    return None


class Sweep:
    """The moments on a path, in the order of the log, from the segment of `begin` on; read as far as one asks for them.

    Raises Damaged where the log cannot be read, also where it is no log.
    """

    def __init__(self, log: Log, along: Path, begin: int, until: int | None = None) -> None:
        """`until`: reading stops about there."""
        self._log, self._path, self._begin = log, along, begin
        self._until = along.end if until is None else min(until, along.end)
        self.scanner = Scanner(segment_size=along.base.segment_size)

    def __iter__(self) -> Iterator[Moment]:
        size = self._path.base.segment_size
        for stretch in self._path.stretches:
            if stretch.end <= self._begin:
                continue
            at = stretch.start
            if self.scanner.position is None:
                # From the beginning of a segment where the vault has it, so that no record is begun in its middle.
                first = max(self._begin, stretch.start)
                at = max(first - first % size, stretch.held)
            while True:
                at = max(at, self.scanner.wants or 0)
                stop = min(at - at % _WINDOW + _WINDOW, stretch.end)
                if at >= min(stretch.end, self._until):
                    break
                for moment in self._feed(stretch.timeline, at, stop - at):
                    if moment.lsn >= self._path.base.stop:
                        yield moment
                at = stop

    def _feed(self, timeline: int, at: int, length: int) -> list[Moment]:
        try:
            return self.scanner.feed(at, self._log.read(timeline, at, length))
        except ValueError as error:
            raise Damaged(
                f"the log of timeline {timeline} cannot be read at {show_lsn(at)}: {error}",
                hint="Recover to a moment before it (--at, --lsn), and take a new backup of the server.",
            ) from None


@dataclass(frozen=True)
class Around:
    """The moments on both sides of a time."""

    before: Moment | None
    """The last end of a transaction at or before it; None: none since the backup."""
    beyond: Moment | None
    """The first end of a transaction after it: what a recovery to the time needs, to know where to stop."""
    passed: bool
    """Whether the log surely goes beyond the time (where `beyond` is None: a checkpoint began after it)."""


def around(log: Log, along: Path, time: dt.datetime) -> Around:
    """Looks for a time, by halving: a segment's beginning is read for each step, and then about a segment."""
    stamp = stamp_of(time)
    before: Moment | None = None
    passed = False
    for moment in Sweep(log, along, _segment_before(log, along, stamp)):
        passed = passed or moment.stamp > stamp
        if moment.decides:
            if moment.stamp > stamp:
                return Around(before, moment, passed=True)
            before = moment
    return Around(before, None, passed)


def _segment_before(log: Log, along: Path, stamp: int) -> int:
    """A position in the last segment that surely begins before the time."""
    marks = list(segments(along))
    low, high = 0, len(marks)
    while high - low > 1:
        middle = (low + high) // 2
        limit = marks[high] if high < len(marks) else None
        # A checkpoint tells when it began, which may be long before what surrounds it; so it only counts as late.
        telling = (m for m in Sweep(log, along, marks[middle], limit) if m.stamp > stamp or m.kind != "checkpoint")
        found = next(telling, None)
        if found is None or found.stamp > stamp:
            high = middle
        else:
            low = max(n for n in range(middle, high) if n == middle or marks[n] <= found.lsn)
    return marks[low] if marks else along.end


def segments(along: Path) -> Iterator[int]:
    """Where the segments of the path begin; the first one: where the path does."""
    size = along.base.segment_size
    at = along.base.stop
    while at < along.end:
        yield at
        at = at - at % size + size


@dataclass(frozen=True)
class Tail:
    """Where the log of a path ends."""

    moment: Moment | None
    """The last end of a transaction; None: none since the backup."""
    last: int
    """Where the last whole record begins; the base's `stop` where there is none since."""


def tail(log: Log, along: Path) -> Tail:
    """Read backwards, segment by segment, until a transaction is found."""
    last: int | None = None
    until: int | None = None
    for mark in reversed(list(segments(along))):
        sweep = Sweep(log, along, mark, until)
        decisive = [moment for moment in sweep if moment.decides]
        last = sweep.scanner.last if last is None else last
        if decisive:
            return Tail(decisive[-1], last if last is not None else along.base.stop)
        # One window more, so that a record across the segment's end is seen.
        until = mark + _WINDOW
    return Tail(None, max(last or 0, along.base.stop))
