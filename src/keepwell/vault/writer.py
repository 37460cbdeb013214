"""Streams being written in one backup: cut, looked up, put into frames."""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import sub

import blake3
import numpy as np
import numpy.typing as npt

from keepwell.core.buffers import joined
from keepwell.core.streams import Buffer, Cut, Held
from keepwell.keys.keyring import Keyring
from keepwell.vault.cutter import cutter
from keepwell.vault.frame import FRAME_SIZE, MOST_PIECES
from keepwell.vault.index import FrameTable, PieceTable
from keepwell.vault.naming import ROOM, Named, Naming
from keepwell.vault.packer import Packer
from keepwell.vault.piece import ID_SIZE, PAGE, check_of, identify

_BLOCK = ROOM
"""Bytes cut and looked up at a time: large enough that what Python does per block does not count."""
_AHEAD = 2
"""Blocks whose ids are being found out, while those before are looked up."""
_TOKENS = np.dtype([("id", f"V{ID_SIZE}"), ("length", "<u4")])
_MOST_TOKENS = 16 << 20
"""Bytes of tokens kept for `take_ids`: larger files are not worth a cache that large."""


@dataclass(eq=False)
class Desk:
    """What all streams of a session share; `lock` guards the tables."""

    keyring: Keyring
    packer: Packer
    pieces: PieceTable
    frames: FrameTable
    naming: Naming
    lock: threading.Lock
    read: int = 0
    """Bytes given by sources."""
    new: int = 0
    """Bytes of pieces that the vault did not have, or that were to be stored anew."""
    after_block: Callable[[], None] = lambda: None

    def find(self, ids: Buffer) -> Held | None:
        """Where all pieces of these tokens are known, so that a `reuse` will find them."""
        if len(ids) % _TOKENS.itemsize:
            return None
        with self.lock:
            found = self.pieces.locate(np.frombuffer(ids, _TOKENS)["id"])
        return None if np.any(found < 0) else Held(memoryview(ids), memoryview(found.tobytes()))

    def places(self, tokens: npt.NDArray[np.void], ids: bytes | Held) -> npt.NDArray[np.int64]:
        """Of each of these, -1 where it is unknown. Under the lock."""
        return np.frombuffer(ids.places, np.int64) if isinstance(ids, Held) else self.pieces.locate(tokens["id"])

    @staticmethod
    def spread(held: Held) -> float:
        """Bytes of the frames that hold these pieces, for each byte of the pieces."""
        tokens, rows = np.frombuffer(held.ids, _TOKENS), np.sort(np.frombuffer(held.places, np.int64) >> 16)
        frames = int(np.count_nonzero(np.diff(rows))) + 1 if len(rows) else 0
        return frames * FRAME_SIZE / max(1, int(tokens["length"].sum(dtype=np.int64)))


class _Frame:
    """A frame while pieces are put into it."""

    def __init__(self, row: int) -> None:
        self.row = row
        self.lengths: list[int] = []
        self.ids: list[bytes] = []
        self.pieces: list[Buffer] = []
        self.size = 0


class StreamBuilder:
    """One stream (a `core.streams.StreamWriter`). Extents are kept as columns: 28 bytes each."""

    def __init__(self, desk: Desk, source: str, name: str, cut: Cut) -> None:
        self.source, self.name, self.cut = source, name, cut
        self.closed = False
        self.size = 0
        self._desk, self._anew = desk, False
        self._cutter = cutter(cut, desk.keyring)
        self._waiting: list[Buffer] = []
        self._waits = 0
        self._named: deque[Named] = deque()
        self._unnamed = 0
        self._frame: _Frame | None = None
        self._digest = blake3.blake3(key=desk.keyring.piece_key)
        self._tokens = bytearray()
        # The extent that grows, and the columns of those that are done.
        self._at = self._next = -1
        self._run = bytearray()
        self._run_bytes = 0
        self.rows, self.first, self.count, self.bytes, self.checks = (array(c) for c in "QIIIQ")

    @property
    def position(self) -> int:
        return self.size + self._unnamed + self._waits

    def write(self, data: Buffer) -> None:
        self._check_open()
        view = memoryview(data)
        while view:
            some = view[: _BLOCK - self._waits]
            self._write(some)
            view = view[len(some) :]

    def _write(self, data: memoryview) -> None:
        full = self._waits + len(data) >= _BLOCK
        # What is cut at once is copied only once, into the block.
        self._waiting.append(data if full else bytes(data))
        self._waits += len(data)
        if full:
            self._cut(final=False)

    def boundary(self) -> None:
        self._check_open()
        self._cut(final=True)
        self._tokens.clear()

    def take_ids(self) -> bytes:
        self._check_open()
        self._cut(final=True)
        taken = bytes(self._tokens) if len(self._tokens) < _MOST_TOKENS else b""
        self._tokens.clear()
        return taken

    def reuse(self, ids: bytes | Held, size: int) -> bool:
        self._check_open()
        raw = _raw(ids)
        if len(raw) % _TOKENS.itemsize:
            return False
        tokens = np.frombuffer(raw, _TOKENS)
        lengths = tokens["length"].astype(np.int64)
        if int(lengths.sum()) != size:
            return False
        self.boundary()
        with self._desk.lock:
            found = self._desk.places(tokens, ids)
            if np.any(found < 0):
                return False
            self._append(found, tokens["id"].tobytes(), lengths)
        self._account(raw, size)
        return True

    def overlay(self, ids: bytes | Held, places: Sequence[int], data: Buffer) -> bytes | None:
        self._check_open()
        tokens = np.frombuffer(_raw(ids), _TOKENS).copy()
        if len(data) != PAGE * len(places) or np.any(tokens["length"] != PAGE) or self.cut != "pages":
            raise ValueError("only whole pages can be laid over others")
        self.boundary()
        view, lengths = memoryview(bytes(data)), [PAGE] * len(places)
        fresh = identify(self._desk.keyring.piece_key, view, lengths)
        with self._desk.lock:
            found = self._desk.places(tokens, ids).copy()
            found[places] = 0
            if np.any(found < 0):
                return None
            tokens["id"][places] = np.frombuffer(b"".join(fresh), f"V{ID_SIZE}")
            found[places], full = self._place(view, lengths, fresh)
            self._append(found, tokens["id"].tobytes(), tokens["length"].astype(np.int64))
        for frame in full:
            self._submit(frame)
        laid = tokens.tobytes()
        self._account(laid, PAGE * len(tokens))
        self._desk.after_block()
        return laid

    def anew(self, on: bool) -> None:
        self.boundary()
        self._anew = on

    def close(self) -> None:
        if self.closed:
            return
        self._cut(final=True)
        self._end_extent()
        if self._frame is not None:
            self._submit(self._frame)
            self._frame = None
        self.closed = True

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"stream {self.name!r} of {self.source} is closed: what follows would be lost")

    def digest(self) -> str:
        return self._digest.hexdigest()

    def _cut(self, *, final: bool) -> None:
        """What waits, as far as it is known where its pieces end; `final`: all of it, and nothing is under way any more."""
        if self._waits and not self._ask():
            self._settle(0)
            view = joined(self._waiting)
            lengths = self._cutter.cut(view, final=final)
            cut = sum(lengths)
            self._waiting = [bytes(view[cut:])] if cut < len(view) else []
            self._waits = len(view) - cut
            self._take(view, lengths, identify(self._desk.keyring.piece_key, view, lengths))
        self._settle(0 if final else _AHEAD)

    def _ask(self) -> bool:
        """Has the ids of pages found out elsewhere."""
        if self.cut != "pages" or self._waits % PAGE:
            return False
        named = self._desk.naming.ask(self._waiting, self._waits)
        if named is None:
            return False
        self._named.append(named)
        self._unnamed += self._waits
        self._waiting, self._waits = [], 0
        return True

    def _settle(self, most: int) -> None:
        """Takes pages whose ids were found out, until no more than so many blocks are under way."""
        while len(self._named) > most:
            named = self._named.popleft()
            self._unnamed -= len(named.pages)
            self._take(named.pages, [PAGE] * (len(named.pages) // PAGE), self._desk.naming.ids(named))

    def _take(self, view: memoryview, lengths: list[int], ids: list[bytes]) -> None:
        whole = b"".join(ids)
        with self._desk.lock:
            locations, full = self._place(view, lengths, ids)
            self._append(np.array(locations, np.int64), whole, np.array(lengths, np.int64))
        for frame in full:
            self._submit(frame)
        self._account(_tokens(whole, lengths), sum(lengths))
        self._desk.after_block()

    def _place(self, view: memoryview, lengths: list[int], ids: list[bytes]) -> tuple[list[int], list[_Frame]]:
        """Finds or stores each piece; returns where they are, and the frames that became full. Under the lock."""
        pieces = self._desk.pieces
        # Anew: what the vault had before this backup is as if it were not there.
        found = pieces.find_recent(ids) if self._anew else pieces.find(ids)
        ends = [0, *accumulate(lengths)]
        fresh: dict[bytes, int] = {}
        full: list[_Frame] = []
        at = 0
        while at < len(ids):
            if found[at] < 0:  # a piece that stands twice in this block was unknown when it was looked up
                found[at] = fresh.get(ids[at], -1)
            if found[at] >= 0:
                at += 1
                continue
            start = stop = at
            while stop < len(ids) and found[stop] < 0 and ids[stop] not in fresh:
                fresh[ids[stop]] = -1
                stop += 1
            while at < stop:
                end, location = self._put(view, ids, ends, at, stop, full)
                found[at:end] = range(location, location + end - at)
                at = end
            fresh.update(zip(ids[start:stop], found[start:stop], strict=True))
        pieces.add(fresh)
        pieces.spill()
        return found, full

    def _put(
        self, view: memoryview, ids: list[bytes], ends: list[int], at: int, stop: int, full: list[_Frame]
    ) -> tuple[int, int]:
        """Pieces from `at` on into the frame, as many as it takes; the next piece, and where the first one is."""
        frame = self._frame
        if frame is None:
            frame = self._frame = _Frame(self._desk.frames.reserve())
        first = len(frame.ids)
        most = min(stop, at + MOST_PIECES - first)
        end = bisect_left(ends, ends[at] + FRAME_SIZE - frame.size, at + 1, most)
        frame.ids += ids[at:end]
        frame.lengths += map(sub, ends[at + 1 : end + 1], ends[at:end])
        frame.pieces.append(view[ends[at] : ends[end]])
        frame.size += ends[end] - ends[at]
        self._desk.new += ends[end] - ends[at]
        if frame.size >= FRAME_SIZE or len(frame.ids) >= MOST_PIECES:
            full.append(frame)
            self._frame = None
        return end, frame.row << 16 | first

    def _submit(self, frame: _Frame) -> None:
        self._desk.packer.add(frame.row, frame.lengths, frame.ids, frame.pieces)

    def _append(self, locations: npt.NDArray[np.int64], ids: bytes, lengths: npt.NDArray[np.int64]) -> None:
        """Pieces that follow each other in one frame make one extent."""
        if not len(locations):
            return
        edges = [0, *(np.flatnonzero(np.diff(locations) != 1) + 1).tolist(), len(locations)]
        ends = np.concatenate(([0], np.cumsum(lengths)))[edges].tolist()
        self._extend(int(locations[0]), ids[: ID_SIZE * edges[1]], ends[1])
        if len(edges) > 3:
            self._append_whole(locations, ids, edges[1:-1], ends[1:-1])
        if len(edges) > 2:
            self._extend(int(locations[edges[-2]]), ids[ID_SIZE * edges[-2] :], ends[-1] - ends[-2])

    def _append_whole(self, locations: npt.NDArray[np.int64], ids: bytes, edges: list[int], ends: list[int]) -> None:
        """Runs between two others: each is a whole extent, and there may be very many."""
        self._end_extent()
        begun = locations[edges[:-1]]
        self.rows.frombytes((begun >> 16).astype("<u8").tobytes())
        self.first.frombytes((begun & 0xFFFF).astype("<u4").tobytes())
        self.count.frombytes(np.diff(edges).astype("<u4").tobytes())
        self.bytes.frombytes(np.diff(ends).astype("<u4").tobytes())
        key = self._desk.keyring.piece_key
        self.checks.extend(check_of(key, ids[ID_SIZE * first : ID_SIZE * end]) for first, end in pairwise(edges))

    def _extend(self, location: int, ids: bytes, size: int) -> None:
        """Pieces of one frame, one after the other from `location` on."""
        if location != self._next or len(self._run) + len(ids) > ID_SIZE * MOST_PIECES:
            self._end_extent()
            self._at = location
        self._run += ids
        self._run_bytes += size
        self._next = location + len(ids) // ID_SIZE

    def _end_extent(self) -> None:
        if self._run:
            self.rows.append(self._at >> 16)
            self.first.append(self._at & 0xFFFF)
            self.count.append(len(self._run) // ID_SIZE)
            self.bytes.append(self._run_bytes)
            self.checks.append(check_of(self._desk.keyring.piece_key, bytes(self._run)))
        self._run, self._run_bytes, self._at, self._next = bytearray(), 0, -1, -1

    def _account(self, tokens: Buffer, size: int) -> None:
        self._digest.update(tokens)
        if len(self._tokens) < _MOST_TOKENS:
            self._tokens += tokens
        self.size += size
        with self._desk.lock:
            self._desk.read += size


def _raw(ids: bytes | Held) -> Buffer:
    return ids.ids if isinstance(ids, Held) else ids


def _tokens(ids: bytes, lengths: list[int]) -> bytes:
    tokens = np.empty(len(lengths), _TOKENS)
    tokens["id"] = np.frombuffer(ids, f"V{ID_SIZE}")
    tokens["length"] = lengths
    return tokens.tobytes()


def as_columns(streams: list[StreamBuilder]) -> tuple[np.ndarray, ...]:
    """Rows, first, count, bytes and check of all extents, stream after stream."""
    return tuple(
        np.concatenate([np.frombuffer(getattr(s, column), kind) for s in streams] or [np.zeros(0, kind)])
        for column, kind in (("rows", "<u8"), ("first", "<u4"), ("count", "<u4"), ("bytes", "<u4"), ("checks", "<u8"))
    )
