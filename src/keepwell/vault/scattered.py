"""What is wanted of which frames where the pieces of a stream lie scattered, worked out before it is read."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from keepwell.vault.manifest import Extents
from keepwell.vault.openers import Run

FETCH = 1 << 20
"""Stored bytes in one ranged read, about."""
GAP = 32 << 10
"""Unneeded bytes that are cheaper to read than to skip."""
_WINDOW, _MOST_EXTENTS = 2 << 20, 4096
T = TypeVar("T")
Fetch: TypeAlias = tuple[int, int, int]
"""What to read at once: pack, start, end."""
FrameKey: TypeAlias = tuple[int, int]
"""Pack and offset."""


class Done(NamedTuple):
    frames: list[FrameKey]
    runs: list[Fetch]


class Wanted:
    """Of one stream. Safe in several threads."""

    def __init__(self, extents: Extents) -> None:
        self._extents = extents
        self.windows = _windows(extents)
        """Consecutive extents of some MiB each: what is read and handed out at once."""
        self.places: list[int] = (np.cumsum(extents.bytes, dtype=np.int64) - extents.bytes).tolist()
        """Where in the stream each extent begins."""
        self._runs, self._run_of = _runs(extents)
        order = np.lexsort((extents.offset, extents.pack))
        pack, offset = extents.pack[order], extents.offset[order]
        edges = np.flatnonzero(np.concatenate(([True], (pack[1:] != pack[:-1]) | (offset[1:] != offset[:-1]), [True])))
        self._edges = edges if len(order) else np.zeros(1, np.int64)
        self._frame_of = np.empty(len(order), np.int64)
        self._frame_of[order] = np.repeat(np.arange(len(self._edges) - 1), np.diff(self._edges))
        self._columns = [column[order] for column in (extents.first, extents.pieces, extents.bytes, extents.check)]
        # `order` is stable, so the first of a frame in it is the first of it in the stream.
        self._met_first = np.zeros(len(order), np.bool_)
        self._met_first[order[self._edges[:-1]]] = True
        self._lock = threading.Lock()
        self._frame_left, self._run_left = np.diff(self._edges), np.bincount(self._run_of, minlength=len(self._runs))

    def runs_of(self, window: slice) -> list[Fetch]:
        """What to read for the frames that are met in this window for the first time."""
        return [self._runs[n] for n in sorted(set(self._run_of[window][self._met_first[window]].tolist()))]

    def run_of(self, index: int) -> Fetch:
        """What to read for the frame of this extent."""
        return self._runs[int(self._run_of[index])]

    def of_frame(self, index: int) -> list[Run]:
        """What is wanted of this extent's frame: by it and by all other extents."""
        frame = self._frame_of[index]
        low, high = self._edges[frame], self._edges[frame + 1]
        return list(set(zip(*(column[low:high].tolist() for column in self._columns), strict=True)))

    def done_with(self, window: slice) -> Done:
        """Said once of each window, when it has been handed out: what nobody will want again."""
        frames, runs, extents = self._frame_of[window], self._run_of[window], self._extents
        with self._lock:
            np.subtract.at(self._frame_left, frames, 1)
            np.subtract.at(self._run_left, runs, 1)
            last = np.flatnonzero(self._frame_left[frames] == 0) + window.start
            over = runs[self._run_left[runs] == 0].tolist()
        keys = zip(extents.pack[last].tolist(), extents.offset[last].tolist(), strict=True)
        return Done(list(set(keys)), [self._runs[n] for n in set(over)])


class Kept(Generic[T]):
    """What was made last, by key: made once, also where two threads want it at the same time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._made: OrderedDict[tuple[int, ...], Future[T]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[int, ...], make: Callable[[], T]) -> T:
        with self._lock:
            future = self._made.get(key)
            mine = future is None
            if future is None:
                future = self._made[key] = Future()
                if len(self._made) > self._most:
                    self._made.popitem(last=False)
            else:
                self._made.move_to_end(key)
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                future.set_exception(error)
                with self._lock:
                    self._made.pop(key, None)
        return future.result()

    def drop(self, keys: Iterable[tuple[int, ...]]) -> None:
        """Nobody will want them again."""
        with self._lock:
            for key in keys:
                self._made.pop(key, None)


def _windows(extents: Extents) -> list[slice]:
    """Consecutive extents of some MiB each."""
    ends = np.cumsum(extents.bytes, dtype=np.int64)
    edges = [0]
    while edges[-1] < len(extents):
        reached = int(ends[edges[-1] - 1]) if edges[-1] else 0
        stop = int(np.searchsorted(ends, reached + _WINDOW, side="left")) + 1
        edges.append(min(stop, len(extents), edges[-1] + _MOST_EXTENTS))
    return [slice(*edge) for edge in itertools.pairwise(edges)]


def _runs(extents: Extents) -> tuple[list[tuple[int, int, int]], npt.NDArray[np.int64]]:
    """What to read at once, as (pack, start, end); and for each extent which of these has its frame."""
    order = np.lexsort((extents.offset, extents.pack))
    packs, offsets = extents.pack[order].tolist(), extents.offset[order].tolist()
    lengths = extents.length[order].tolist()
    runs: list[tuple[int, int, int]] = []
    of = np.empty(len(extents), np.int64)
    for index, pack, offset, length in zip(order.tolist(), packs, offsets, lengths, strict=True):
        if runs and runs[-1][0] == pack and offset <= runs[-1][2] + GAP and offset + length - runs[-1][1] <= FETCH:
            runs[-1] = (pack, runs[-1][1], max(runs[-1][2], offset + length))
        elif not (runs and runs[-1][0] == pack and offset + length <= runs[-1][2]):
            runs.append((pack, offset, offset + length))
        of[index] = len(runs) - 1
    return runs, of
