"""Where a receiver begins: from what the vault has, what the slot keeps, and the history of the server. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from keepwell.core.wal import Fork

NEAR = 64 << 20
"""More bytes than a receiver has in memory."""
Spans = Mapping[int, Sequence[tuple[int, int]]]
"""By timeline: (start, end) of what the vault has, sorted, without overlap."""


@dataclass(frozen=True)
class Start:
    timeline: int
    position: int
    gap: tuple[int, int] | None = None
    """On the way that leads here: from where to where the log is missing for good."""


@dataclass(frozen=True)
class Server:
    """What the server says of its log."""

    timeline: int
    position: int
    segment_size: int
    forks: tuple[Fork, ...] = ()
    """The ancestors of its timeline, oldest first: its history file."""

    def floor(self, position: int) -> int:
        return position - position % self.segment_size

    def line(self) -> list[tuple[int, int | None]]:
        """Its timelines, oldest first, each with the position where the log left it."""
        return [*((fork.timeline, fork.end) for fork in self.forks), (self.timeline, None)]

    def at(self, position: int) -> int:
        """The timeline that the byte at the position belongs to."""
        return next(timeline for timeline, end in self.line() if end is None or position < end)


def begin(have: Spans, server: Server, kept: int | None, *, refused: Collection[Start] = ()) -> Start:
    """The first byte to ask for. `kept`: from where on the server keeps log for the slot, where that is known.

    That is the end of what is there in one piece from `kept` on, through all timelines of the server's line; where the
    vault lacks `kept` itself, the end of what lies before it. But places shortly before that where log is missing come first,
    of those that the server has not `refused`: that a slot is ahead of them does not prove them lost. A slot made after a
    failover is, and the receiver that made it may have been killed with the bytes in its memory. (What is missing further
    back is lost, or was removed by a prune.)
    The server may have thrown away what is asked for; then see `beyond`.
    """
    known = [timeline for timeline, _ in server.line() if have.get(timeline)]
    ends = [_onward(have, server, timeline, end) for timeline in known for _, end in have[timeline]]
    if not ends:
        return _fresh(server, kept)
    last = ends[-1] if kept is None else _from(have, server, kept)
    earlier = ends[: ends.index(last)] if last in ends else []
    near = (start for start in earlier if start.position >= last.position - NEAR)
    return next((start for start in near if start not in refused), last)


def _from(have: Spans, server: Server, kept: int) -> Start:
    there = server.at(kept)
    for start, end in have.get(there, ()):
        if start <= kept <= end:
            return _onward(have, server, there, end)
    known = [timeline for timeline, _ in server.line()]
    until = known[: known.index(there) + 1]
    spans = [(timeline, end) for timeline in until for _, end in have.get(timeline, ())]
    before = [(timeline, end) for timeline, end in spans if timeline != there or end < kept]
    return _onward(have, server, *before[-1]) if before else _fresh(server, kept)


def beyond(wanted: Start, server: Server, kept: int | None) -> Start:
    """Where to go on when the server has no longer what `begin` asked for: with the gap that this leaves."""
    start = _fresh(server, kept)
    if start.position <= wanted.position:  # the slot promises what the server denies: only its newest is sure
        start = Start(server.timeline, server.floor(server.position))
    return Start(start.timeline, start.position, (wanted.position, start.position))


def _fresh(server: Server, kept: int | None) -> Start:
    position = server.position if kept is None else min(kept, server.position)
    timeline = server.at(position)
    return Start(timeline, server.floor(position))


def _onward(have: Spans, server: Server, timeline: int, position: int) -> Start:
    """From a place on a timeline that everything is there up to: the first byte that is not, later timelines included.

    A timeline begins in the middle of a segment, and that segment's file is a new one: it is wanted from its beginning.
    """
    line = server.line()
    at = [known for known, _ in line].index(timeline)
    while (left := line[at][1]) is not None and position >= left:
        at, position = at + 1, server.floor(left)
        for start, end in have.get(line[at][0], ()):
            if start <= position < end:
                position = end
    return Start(line[at][0], position)


def merge(spans: Sequence[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """The spans with one more, sorted, those that touch joined."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted([*spans, (start, end)]):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        elif high > low:
            merged.append((low, high))
    return merged
