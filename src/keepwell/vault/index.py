"""Where each piece lies: entries of packs, index objects, and the tables that answer quickly in little memory."""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from keepwell.core import zstd
from keepwell.core.errors import Damaged
from keepwell.keys.keyring import Keyring

U32: TypeAlias = npt.NDArray[np.uint32]
U64: TypeAlias = npt.NDArray[np.uint64]
MOST_PIECES = 500_000
"""Pieces in one index object, about: a session writes one whenever so many have come together."""
_MANY = 100
"""Ids to look up, from which on putting them in order pays."""


@dataclass(frozen=True)
class Section:
    birth: bytes
    frames: int


@dataclass(frozen=True, eq=False)
class PackEntry:
    """What one pack holds. Columns have one value a frame; `ids` 16 bytes a piece, frame by frame."""

    pack: str
    """SHA-256 of the object, hex: its name."""
    size: int
    sections: tuple[Section, ...]
    number: U32
    offset: U32
    length: U32
    pieces: U32
    ids: bytes

    @classmethod
    def of(
        cls,
        pack: str,
        size: int,
        sections: Iterable[Section],
        number: Iterable[int],
        offset: Sequence[int],
        length: Sequence[int],
        pieces: Sequence[int],
        ids: bytes,
    ) -> PackEntry:
        numbers, offsets, lengths, counts = (np.fromiter(c, dtype="<u4") for c in (number, offset, length, pieces))
        return cls(pack, size, tuple(sections), numbers, offsets, lengths, counts, ids)

    def named(self, pack: str, size: int) -> PackEntry:
        return replace(self, pack=pack, size=size)

    def births(self) -> Iterator[tuple[bytes, slice]]:
        """Each section's birth id, and where its frames stand in the columns."""
        at = 0
        for section in self.sections:
            yield section.birth, slice(at, at + section.frames)
            at += section.frames


def encode_entry(entry: PackEntry) -> bytes:
    head = json.dumps(
        {
            "pack": entry.pack,
            "size": entry.size,
            "sections": [{"birth": s.birth.hex(), "frames": s.frames} for s in entry.sections],
            "frames": len(entry.number),
            "pieces": len(entry.ids) // 16,
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
    columns = (entry.number, entry.offset, entry.length, entry.pieces)
    return struct.pack("<I", len(head)) + head + b"".join(c.tobytes() for c in columns) + entry.ids


def decode_entry(data: bytes, at: int = 0) -> PackEntry:
    """Raises ValueError."""
    return _decode(data, at)[0]


def _decode(data: bytes, at: int) -> tuple[PackEntry, int]:
    try:
        (size,) = struct.unpack_from("<I", data, at)
        head = json.loads(data[at + 4 : at + 4 + size])
        at += 4 + size
        frames, pieces = int(head["frames"]), int(head["pieces"])
        columns = []
        for _ in range(4):
            columns.append(np.frombuffer(data, "<u4", frames, at))
            at += 4 * frames
        ids = data[at : at + 16 * pieces]
        found = tuple(Section(bytes.fromhex(s["birth"]), int(s["frames"])) for s in head["sections"])
        if len(ids) != 16 * pieces or int(columns[3].sum()) != pieces or sum(s.frames for s in found) != frames:
            raise ValueError("columns do not fit")
        number, offset, length, counts = columns
        entry = PackEntry(head["pack"], int(head["size"]), found, number, offset, length, counts, ids)
        return entry, at + 16 * pieces
    except (struct.error, KeyError, TypeError) as error:
        raise ValueError(str(error)) from None


def encode_index(keyring: Keyring, name: str, entries: Sequence[PackEntry]) -> bytes:
    plain = struct.pack("<I", len(entries)) + b"".join(encode_entry(entry) for entry in entries)
    return keyring.envelope(name, zstd.compress(plain, 3))


def decode_index(keyring: Keyring, name: str, raw: bytes) -> list[PackEntry]:
    """Raises Damaged."""
    plain = keyring.open(name, raw)
    try:
        plain = zstd.decompress(plain)
        (count,) = struct.unpack_from("<I", plain)
        entries, at = [], 4
        for _ in range(count):
            entry, at = _decode(plain, at)
            entries.append(entry)
        if at != len(plain):
            raise ValueError("something follows the last entry")
    except (struct.error, ValueError) as error:
        raise Damaged(f"{name} was altered ({error})") from None
    return entries


class PieceTable:
    """Piece id -> location (`row << 16 | piece in the frame`): sorted arrays, 24 bytes a piece, looked up in batches.

    New pieces go into a dict, which is turned into a sorted run when it is large: memory stays at 24 bytes a piece. Of a piece that
    was loaded twice the later place counts.
    """

    _SPILL = 50_000

    def __init__(self) -> None:
        self._runs: list[tuple[U64, U64, U64]] = []
        self._recent: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._recent) + sum(len(run[0]) for run in self._runs)

    def load(self, ids: bytes, locations: U64) -> None:
        if len(locations):
            both = np.frombuffer(ids, "<u8").reshape(-1, 2)
            order = np.argsort(both[:, 0], kind="stable")
            self._runs.append((both[order, 0], both[order, 1], locations[order]))
            self._merge()

    def add(self, pieces: Mapping[bytes, int]) -> None:
        """Ids and locations."""
        self._recent.update(pieces)

    def find_recent(self, ids: Iterable[bytes]) -> list[int]:
        """Locations of those that were added since the last `spill` at the latest, -1 for others."""
        recent = self._recent
        return [recent.get(piece, -1) for piece in ids]

    def spill(self) -> None:
        """Called between batches; turns many recent pieces into a run."""
        if len(self._recent) >= self._SPILL:
            self.load(b"".join(self._recent), np.fromiter(self._recent.values(), dtype="<u8", count=len(self._recent)))
            self._recent = {}

    def find(self, ids: list[bytes]) -> list[int]:
        """Locations, -1 where unknown."""
        recent = self._recent
        if not self._runs or not ids:
            return self.find_recent(ids)
        found: list[int] = self._in_runs(np.frombuffer(b"".join(ids), "<u8").reshape(-1, 2)).tolist()
        if recent:
            return [at if at >= 0 else recent.get(piece, -1) for at, piece in zip(found, ids, strict=True)]
        return found

    def locate(self, ids: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
        """The same for an array of ids of 16 bytes each."""
        packed = np.ascontiguousarray(ids)
        found = self._in_runs(packed.view("<u8").reshape(-1, 2))
        if self._recent:
            for i in np.flatnonzero(found < 0).tolist():
                found[i] = self._recent.get(packed[i].tobytes(), -1)
        return found

    def _in_runs(self, both: U64) -> npt.NDArray[np.int64]:
        found = np.full(len(both), -1, np.int64)
        # In order, so that one search is near the last: ids are random, and each would miss every cache.
        order = np.argsort(both[:, 0]) if len(both) > _MANY else None
        if order is not None:
            both = both[order]
        for high, low, locations in self._runs:
            at = np.searchsorted(high, both[:, 0])
            near = np.minimum(at, len(high) - 1)
            same = high[near] == both[:, 0]
            hit = same & (low[near] == both[:, 1])
            found[hit] = locations[near[hit]]
            # Ids that share their first half: rare, so one by one.
            for i in np.flatnonzero(same & ~hit).tolist():
                row = int(at[i]) + 1
                while row < len(high) and high[row] == both[i, 0]:
                    if low[row] == both[i, 1]:
                        found[i] = int(locations[row])
                        break
                    row += 1
        if order is None:
            return found
        placed = np.empty_like(found)
        placed[order] = found
        return placed

    def _merge(self) -> None:
        # Runs of like size are merged, so that there are never more than a handful to search.
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 4 * len(self._runs[-1][0]):
            last, before = self._runs.pop(), self._runs.pop()
            # The later first, and in a stable order: the first of equals is the one that is found.
            high = np.concatenate((last[0], before[0]))
            order = np.argsort(high, kind="stable")
            self._runs.append(
                (high[order], np.concatenate((last[1], before[1]))[order], np.concatenate((last[2], before[2]))[order])
            )


class FrameTable:
    """Frame row -> where the frame lies: a home (birth and pack), number, offset, length. 16 bytes a frame."""

    def __init__(self) -> None:
        self.homes: list[tuple[bytes, str]] = []
        """Birth id and pack name; the name of a pack being built is set when it is finished."""
        self._columns = tuple(array("I") for _ in range(4))

    def __len__(self) -> int:
        return len(self._columns[0])

    def home(self, birth: bytes, pack: str = "") -> int:
        self.homes.append((birth, pack))
        return len(self.homes) - 1

    def reserve(self) -> int:
        """A row for a frame whose place is not yet known."""
        for column in self._columns:
            column.append(0)
        return len(self) - 1

    def set(self, row: int, home: int, number: int, offset: int, length: int) -> None:
        for column, value in zip(self._columns, (home, number, offset, length), strict=True):
            column[row] = value

    def load(self, entry: PackEntry) -> U64:
        """Takes in a pack; returns the location of each of its pieces."""
        first = len(self)
        for birth, frames in entry.births():
            home = self.home(birth, entry.pack)
            count = frames.stop - frames.start
            self._columns[0].frombytes(np.full(count, home, "<u4").tobytes())
            for column, values in zip(self._columns[1:], (entry.number, entry.offset, entry.length), strict=True):
                column.frombytes(values[frames].tobytes())
        counts = entry.pieces.astype(np.int64)
        rows = np.repeat(np.arange(first, first + len(counts), dtype=np.uint64), counts)
        begins = np.repeat(np.cumsum(counts) - counts, counts)
        inside = (np.arange(len(rows)) - begins).astype(np.uint64)
        return (rows << np.uint64(16)) | inside

    def columns(self, rows: U64) -> tuple[U32, U32, U32, U32]:
        """Home, number, offset and length of many frames."""
        picked = [np.frombuffer(column, "<u4")[rows] for column in self._columns]
        return picked[0], picked[1], picked[2], picked[3]
