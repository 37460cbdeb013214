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
_MOST_HELD = 1 << 16
"""Pages of earlier backups in a block: it may have very few new ones."""
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


@dataclass(frozen=True)
class _Laid:
    """Pages of an earlier backup in a block, some of them replaced."""

    at: int
    """New pages of the block before those that go here."""
    under: Held
    places: Sequence[int]
    """Where in `under` new pages go, rising."""


@dataclass(frozen=True)
class _Named:
    """A block of whole pages whose ids are being found out."""

    pages: Named
    laid: list[_Laid]
    size: int
    """Bytes of the stream, with those of earlier backups."""


class StreamBuilder:
    """One stream (a `core.streams.StreamWriter`). Extents are kept as columns: 28 bytes each."""

    def __init__(self, desk: Desk, source: str, name: str, cut: Cut) -> None:
        self.source, self.name, self.cut = source, name, cut
        self.closed = False
        self.size = 0
        self._desk, self._anew = desk, False
        self._cutter = cutter(cut, desk.keyring)
        # The block that is gathered: its bytes, in a room of the process that names pages or in parts, and what they are laid over.
        self._room: npt.NDArray[np.uint8] | None = None
        self._own: memoryview | None = None
        self._waiting: list[Buffer] = []
        self._waits = 0
        self._laid: list[_Laid] = []
        self._held = 0
        self._named: deque[_Named] = deque()
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
        return self.size + self._unnamed + self._gathered

    @property
    def _gathered(self) -> int:
        """Bytes of the stream in the block that is gathered."""
        return self._waits + PAGE * (self._held - sum(len(laid.places) for laid in self._laid))

    def write(self, data: Buffer) -> None:
        self._check_open()
        view = memoryview(data).cast("B")
        while view:
            some = view[: _BLOCK - self._waits]
            self._write(some)
            view = view[len(some) :]

    def room(self, size: int) -> memoryview:
        self._check_open()
        self._prepare()
        if self._room is not None and self._waits % PAGE == 0:
            return self._room[self._waits : self._waits + min(size, _BLOCK - self._waits)].data
        if self._own is None:
            self._own = memoryview(bytearray(_BLOCK))
        return self._own[:size]

    def _prepare(self) -> None:
        if not self._waits and self._room is None and self.cut == "pages":
            self._room = self._desk.naming.room()

    def _write(self, data: memoryview) -> None:
        self._prepare()
        full = self._waits + len(data) >= _BLOCK
        if self._room is not None:
            here, given = self._room[self._waits : self._waits + len(data)], np.frombuffer(data, np.uint8)
            if here.ctypes.data != given.ctypes.data:
                here[:] = given  # by NumPy, since it lets other threads run meanwhile
        else:
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
        if isinstance(ids, Held) and self.cut == "pages":
            if len(ids) * PAGE != size:
                return False
            self._lay(ids, ())
            return True
        raw = _raw(ids)
        if len(raw) % _TOKENS.itemsize:
            return False
        tokens = np.frombuffer(raw, _TOKENS)
        lengths = tokens["length"].astype(np.int64)
        if int(lengths.sum()) != size:
            return False
        self._cut(final=True)
        with self._desk.lock:
            found = self._desk.places(tokens, ids)
            if np.any(found < 0):
                return False
            self._append(found, tokens["id"].tobytes(), lengths)
        self._account(raw, size)
        return True

    def overlay(self, pages: Held, places: Sequence[int], data: Buffer) -> None:
        self._check_open()
        if len(data) != PAGE * len(places) or self.cut != "pages":
            raise ValueError("only whole pages can be laid over others")
        view, first = memoryview(data).cast("B"), 0
        while len(places) - first > (room := _BLOCK // PAGE):
            stop = places[first + room - 1] + 1
            start = places[first - 1] + 1 if first else 0
            some = [place - start for place in places[first : first + room]]
            self._lay(pages.part(start, stop), some, view[PAGE * first : PAGE * (first + room)])
            first += room
        start = places[first - 1] + 1 if first else 0
        self._lay(pages.part(start, len(pages)), [place - start for place in places[first:]], view[PAGE * first :])

    def _lay(self, under: Held, places: Sequence[int], data: Buffer = b"") -> None:
        """No more new pages than a block takes."""
        if np.any(np.frombuffer(under.ids, _TOKENS)["length"] != PAGE):
            raise ValueError("only whole pages can be laid over others")
        if self._waits % PAGE or self._waits + len(data) > _BLOCK or self._held + len(under) > _MOST_HELD:
            self._cut(final=self._waits % PAGE != 0)
        self._laid.append(_Laid(self._waits // PAGE, under, places))
        self._held += len(under)
        if data:
            self._write(memoryview(data))

    def anew(self, on: bool) -> None:
        self._cut(final=True)
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
        """What was gathered, as far as it is known where its pieces end; `final`: all of it, and nothing is under way any more."""
        if (self._waits or self._laid) and not self._ask():
            self._settle(0)
            view = joined(self._waiting) if self._room is None else self._room[: self._waits].data
            lengths = self._cutter.cut(view, final=final)
            cut, laid = sum(lengths), self._laid
            self._begin([bytes(view[cut:])] if cut < len(view) else [])
            if self.cut == "pages":
                self._desk.naming.saw(cut)
            self._take(view, lengths, identify(self._desk.keyring.piece_key, view, lengths), laid)
        self._settle(0 if final else _AHEAD)

    def _begin(self, waiting: list[Buffer]) -> None:
        """A new block."""
        self._room, self._waiting, self._waits = None, waiting, sum(map(len, waiting))
        self._laid, self._held = [], 0

    def _ask(self) -> bool:
        """Has the ids of pages found out elsewhere."""
        if self._room is None or self._waits % PAGE:
            return False
        named = self._desk.naming.ask(self._room, self._waits)
        self._named.append(_Named(named, self._laid, self._gathered))
        self._unnamed += self._gathered
        self._begin([])
        return True

    def _settle(self, most: int) -> None:
        """Takes pages whose ids were found out, until no more than so many blocks are under way."""
        while len(self._named) > most:
            block = self._named.popleft()
            self._unnamed -= block.size
            view = block.pages.pages
            self._take(view, [PAGE] * (len(view) // PAGE), self._desk.naming.ids(block.pages), block.laid)

    def _take(self, view: memoryview, lengths: list[int], ids: list[bytes], laid: list[_Laid]) -> None:
        tokens = np.empty(len(lengths), _TOKENS)
        tokens["id"], tokens["length"] = np.frombuffer(b"".join(ids), f"V{ID_SIZE}"), lengths
        with self._desk.lock:
            found, full = self._place(view, lengths, ids)
            locations = np.array(found, np.int64)
            if laid:
                tokens, locations = _laid_over(tokens, locations, laid)
            self._append(locations, tokens["id"].tobytes(), tokens["length"].astype(np.int64))
        for frame in full:
            self._submit(frame)
        self._account(tokens.tobytes(), int(tokens["length"].sum(dtype=np.int64)))
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


def _laid_over(
    tokens: npt.NDArray[np.void], locations: npt.NDArray[np.int64], laid: list[_Laid]
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int64]]:
    """The new pages of a block among those of earlier backups."""
    parts, places, used = [], [], 0
    for one in laid:
        own = slice(one.at, one.at + len(one.places))
        parts.append(tokens[used : own.start])
        places.append(locations[used : own.start])
        under, there = np.frombuffer(one.under.ids, _TOKENS).copy(), np.frombuffer(one.under.places, np.int64).copy()
        replaced = np.array(one.places, np.intp)
        under[replaced], there[replaced] = tokens[own], locations[own]
        parts.append(under)
        places.append(there)
        used = own.stop
    return np.concatenate([*parts, tokens[used:]]), np.concatenate([*places, locations[used:]])


def as_columns(streams: list[StreamBuilder]) -> tuple[np.ndarray, ...]:
    """Rows, first, count, bytes and check of all extents, stream after stream."""
    return tuple(
        np.concatenate([np.frombuffer(getattr(s, column), kind) for s in streams] or [np.zeros(0, kind)])
        for column, kind in (("rows", "<u8"), ("first", "<u4"), ("count", "<u4"), ("bytes", "<u4"), ("checks", "<u8"))
    )
