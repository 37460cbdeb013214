"""Log on its way from the server into the vault: what has arrived, what to put next, what is safe. No I/O, no time.

Bytes come in order and are put in *pieces* that never leave a segment. Puts may end in any order; `flushed`, which the
server is told, moves only over a prefix of pieces that are all in the vault.
"""

from __future__ import annotations

import datetime as dt
from collections import deque
from dataclasses import dataclass

from keepwell.core.errors import SourceError
from keepwell.core.streams import Buffer
from keepwell.core.wal import segment_name, show_lsn

LARGEST = 32 << 20
"""Up to this size a whole segment is kept in memory, so that it can be put whole; larger ones go in parts of `_UNIT`."""
_UNIT = 16 << 20
_AHEAD = 16 << 20
"""How much beyond one unit may wait for the store before reading stops."""


class Gap(SourceError):
    """Bytes of the log are missing between what is there and what came."""


@dataclass(eq=False)
class Piece:
    """Bytes to put, of one timeline and within one segment."""

    timeline: int
    start: int
    data: memoryview
    segment_size: int
    time: dt.datetime
    """When the server sent the last of them."""

    @property
    def end(self) -> int:
        return self.start + len(self.data)


@dataclass(eq=False)
class _Under:
    """A piece that is being put, and up to where everything is safe once it and all before it are."""

    piece: Piece
    done: bool = False


class Intake:
    """The log of one timeline from `start` on."""

    def __init__(self, timeline: int, start: int, segment_size: int, *, every: float = 10.0) -> None:
        """`every`: after how many seconds the beginning of a segment is put although the segment goes on."""
        self.timeline, self.segment_size = timeline, segment_size
        self.unit = segment_size if segment_size <= LARGEST else _UNIT
        self.received = self.flushed = self._handed = start
        self._every = every
        self._begin = start
        self._units: dict[int, bytearray] = {}
        self._since: dict[int, float] = {}
        self._time: dt.datetime = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
        self._under: deque[_Under] = deque()

    @property
    def waiting(self) -> int:
        """Bytes that are here and not yet safe."""
        return self.received - self.flushed

    @property
    def full(self) -> bool:
        """No more should be read until something is safe."""
        return self.waiting >= self.unit + _AHEAD

    @property
    def busy(self) -> int:
        """How many pieces are being put."""
        return len(self._under)

    def add(self, start: int, data: Buffer, *, now: float, time: dt.datetime) -> None:
        """Bytes from the server. Raises Gap where they do not go on where the last ones ended."""
        if start != self.received:
            raise Gap(
                f"the server sent log from {show_lsn(start)} on where {show_lsn(self.received)} was next "
                f"(segment {segment_name(self.timeline, self.received, self.segment_size)})",
                hint="Nothing of it was stored. Start `keepwell wal receive` again; report it if it happens twice.",
            )
        view, size = memoryview(data), len(data)
        taken = 0
        while taken < size:
            at = start + taken
            begin = at - at % self.unit
            unit = self._units.get(begin)
            if unit is None:
                unit = self._units[begin] = bytearray(self.unit)
            count = min(size - taken, begin + self.unit - at)
            unit[at - begin : at - begin + count] = view[taken : taken + count]
            self._since.setdefault(begin, now)
            taken += count
        self._time = time
        self.received = start + size  # last, so that an interrupt in between has taken nothing

    def due(self) -> float | None:
        """When, by the clock of `add`, the next piece is due at the latest; None: nothing waits to be handed out."""
        if self.received == self._handed:
            return None
        begin = self._handed - self._handed % self.unit
        if self.received >= begin + self.unit:
            return self._since.get(begin, 0.0)
        return self._since.get(begin, 0.0) + self._every

    def next(self, now: float, *, hurry: bool = False) -> Piece | None:
        """The next piece to put, if one is due: a full unit at once; the beginning of one after `every` or in a hurry.

        Beginnings wait for each other: where the store is slow they become fewer and larger. A unit whose beginning
        was put before is put whole, if it is all here, so that its parts are needed no longer.
        """
        begin = self._handed - self._handed % self.unit
        end = begin + self.unit
        if self.received >= end:
            return self._hand(max(begin, self._begin), end)
        if self.received > self._handed and not self._under and (hurry or now >= (self.due() or 0.0)):
            return self._hand(self._handed, self.received)
        return None

    def rest(self) -> list[Piece]:
        """Everything that is here and not safe, whatever is being put at the moment: for the last words of a run."""
        pieces: list[Piece] = []
        at = self.flushed
        while at < self.received:
            begin = at - at % self.unit
            end = min(begin + self.unit, self.received)
            pieces.append(self._piece(max(begin, self._begin) if end == begin + self.unit else at, end))
            at = end
        return pieces

    def stored(self, piece: Piece) -> None:
        """The piece is in the vault, for good."""
        for under in self._under:
            if under.piece is piece:
                under.done = True
        while self._under and self._under[0].done:
            self.flushed = max(self.flushed, self._under.popleft().piece.end)
        for begin in [begin for begin in self._units if begin + self.unit <= self.flushed]:
            del self._units[begin]
            self._since.pop(begin, None)

    def all_stored(self) -> None:
        """Everything that `rest` gave is in the vault."""
        self._under.clear()
        self._handed = self.flushed = self.received

    def _hand(self, start: int, end: int) -> Piece:
        piece = self._piece(start, end)
        self._under.append(_Under(piece))
        self._since.pop(start - start % self.unit, None)
        self._handed = end
        return piece

    def _piece(self, start: int, end: int) -> Piece:
        begin = start - start % self.unit
        return Piece(
            self.timeline,
            start,
            memoryview(self._units[begin])[start - begin : end - begin],
            self.segment_size,
            self._time,
        )
