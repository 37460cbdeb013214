"""The contract between sources and the vault: named, ordered bytes, and facts about them.

A source *captures* by writing streams into a `Sink`, and *restores* by reading them from `Streams`.
Neither side knows the other: `operations` brings them together.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from keepwell.core.clock import Clock, SystemClock
from keepwell.core.progress import Progress, Silent

Json: TypeAlias = Any
Facts: TypeAlias = dict[str, Json]
"""What a source says of what it captured; JSON. Databases have `tables: {name: {rows, digest, ...}}`."""

Cut: TypeAlias = Literal["content", "pages"]
"""How a stream is cut into pieces: by content (text, files), or at fixed 8 KiB offsets (database files)."""

Buffer: TypeAlias = bytes | bytearray | memoryview

_TOKEN = struct.Struct("<16sI")
"""A piece as `take_ids` gives it: its id and its length."""


class StreamWriter(Protocol):
    """One stream being captured. One thread at a time writes to it; different streams may have different threads."""

    @property
    def position(self) -> int:
        """Bytes of the stream so far."""
        ...

    def write(self, data: Buffer) -> None:
        """Append. The buffer is not kept after the call. Big calls (256 KiB and more) are cheapest."""
        ...

    def boundary(self) -> None:
        """End the current piece, so that what follows (a new file, a new table) deduplicates by itself."""
        ...

    def take_ids(self) -> bytes:
        """The pieces since the last `boundary()`, 20 bytes each (id, u32 length); ends the current piece first.

        For a cache that lets a later backup `reuse` them without reading the source again.
        """
        ...

    def reuse(self, ids: bytes, size: int) -> bool:
        """Append `size` bytes known from an earlier backup by their piece ids.

        False (and nothing appended) when any of them is no longer in the vault: then read the source.
        """
        ...

    def overlay(self, ids: bytes, places: Sequence[int], data: Buffer) -> bytes | None:
        """Append whole pages of 8 KiB: those of `ids`, with the ones at `places` (rising) replaced by those of `data`.

        Thousands of short runs of known and new pages cost no more than as many pages in one. Returns the pieces of what was
        appended, as `take_ids` would. None (and nothing appended) when the vault lacks one of those that stay.
        """
        ...

    def anew(self, on: bool) -> None:
        """While on, what is written is stored even where the vault has it already: it then lies together, fast to read."""
        ...

    def close(self) -> None:
        """End the stream. Must be called; a stream left open makes the commit fail."""
        ...


class Sink(Protocol):
    """Where a source puts its streams during one backup. `stream` may be called from any thread."""

    def stream(self, name: str, cut: Cut = "content") -> StreamWriter: ...

    def holds(self, ids: bytes) -> bool:
        """Whether the vault has all of these pieces (as `take_ids` gave them).

        Then a `reuse` of them succeeds for as long as this backup runs: for sources that must know before they ask for
        changes only.
        """
        ...

    def spread(self, ids: bytes) -> float:
        """How scattered these pieces lie: bytes to decode for each byte of them; about 1 where they were stored together."""
        ...


class Streams(Protocol):
    """The streams of one source in one backup, for reading. Safe to use from several threads."""

    def names(self) -> list[str]: ...

    def size(self, name: str) -> int: ...

    def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Verified bytes, in blocks of any size. Raises Damaged rather than give fewer bytes than asked for."""
        ...

    def scatter(self, name: str) -> Iterator[tuple[int, Buffer]]:
        """The whole stream as (position, verified bytes), every byte once, in the order that is fastest to read.

        For restores that can write anywhere: a stream whose pieces lie scattered is read frame by frame. Raises Damaged.
        """
        ...


@dataclass
class Context:
    """What every capture, restore and proof is given."""

    progress: Progress = field(default_factory=Silent)
    clock: Clock = field(default_factory=SystemClock)
    work: Path | None = None
    """A private folder for temporary files; None: make one with tempfile. The maker removes it."""
    jobs: int = 2
    """How many things to do side by side."""
    cancelled: Callable[[], bool] = lambda: False
    cache: Path | None = None
    """A folder for caches that may be lost at any time; None: use none."""


def in_order(streams: Streams, name: str) -> Iterator[tuple[int, Buffer]]:
    """`scatter` for streams that lie in one piece."""
    at = 0
    for block in streams.read(name):
        yield at, block
        at += len(block)


class Discard:
    """A sink that keeps nothing: for capturing only the facts (the round trip of a proof)."""

    def stream(self, name: str, cut: Cut = "content") -> StreamWriter:
        return _Discarded()

    def holds(self, ids: bytes) -> bool:
        return False

    def spread(self, ids: bytes) -> float:
        return 1.0


class _Discarded:
    def __init__(self) -> None:
        self.position = 0

    def write(self, data: Buffer) -> None:
        self.position += len(data)

    def boundary(self) -> None:
        pass

    def take_ids(self) -> bytes:
        return b""

    def reuse(self, ids: bytes, size: int) -> bool:
        return False

    def overlay(self, ids: bytes, places: Sequence[int], data: Buffer) -> bytes | None:
        return None

    def anew(self, on: bool) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Finding:
    """One thing that a proof or a check found wrong. `what` names the table, file, object or check."""

    what: str
    problem: str


class MemoryStreams:
    """Sink and Streams in memory: for tests of sources without a vault."""

    def __init__(self) -> None:
        self.data: dict[str, bytearray] = {}
        self.pieces: dict[bytes, bytes] = {}
        """What `reuse` knows, by id; hand it to a second instance to play the vault's next backup."""

    def stream(self, name: str, cut: Cut = "content") -> StreamWriter:
        if name in self.data:
            raise ValueError(f"stream {name!r} was begun twice")
        self.data[name] = bytearray()
        return _InMemory(self.data[name], self.pieces)

    def holds(self, ids: bytes) -> bool:
        return all(piece in self.pieces for piece, _ in _TOKEN.iter_unpack(ids))

    def spread(self, ids: bytes) -> float:
        return 1.0

    def names(self) -> list[str]:
        return list(self.data)

    def size(self, name: str) -> int:
        return len(self.data[name])

    def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        data = bytes(self.data[name])
        end = len(data) if length is None else start + length
        if end > len(data):
            raise ValueError(f"stream {name!r} has {len(data)} bytes; {end} were asked for")
        for at in range(start, end, 1 << 20):
            yield data[at : min(at + (1 << 20), end)]

    def scatter(self, name: str) -> Iterator[tuple[int, Buffer]]:
        for at in reversed(range(0, len(self.data[name]), 1 << 20)):
            yield at, bytes(self.data[name][at : at + (1 << 20)])


class _InMemory(_Discarded):
    """Pieces are 8 KiB from the last boundary on."""

    def __init__(self, data: bytearray, pieces: dict[bytes, bytes]) -> None:
        super().__init__()
        self._data, self._pieces, self._since = data, pieces, 0

    def write(self, data: Buffer) -> None:
        self._data += data
        self.position = len(self._data)

    def boundary(self) -> None:
        self._since = len(self._data)

    def take_ids(self) -> bytes:
        ids = bytearray()
        for at in range(self._since, len(self._data), 8192):
            piece = bytes(self._data[at : at + 8192])
            ident = hashlib.sha256(piece).digest()[:16]
            self._pieces[ident] = piece
            ids += _TOKEN.pack(ident, len(piece))
        self.boundary()
        return bytes(ids)

    def reuse(self, ids: bytes, size: int) -> bool:
        found = [self._pieces.get(piece) for piece, _ in _TOKEN.iter_unpack(ids)]
        known = [piece for piece in found if piece is not None]
        if len(known) < len(found) or sum(map(len, known)) != size:
            return False
        self.write(b"".join(known))
        self.boundary()
        return True

    def overlay(self, ids: bytes, places: Sequence[int], data: Buffer) -> bytes | None:
        tokens = [ids[at : at + 20] for at in range(0, len(ids), 20)]
        for n, place in enumerate(places):
            piece = bytes(data[8192 * n : 8192 * (n + 1)])
            ident = hashlib.sha256(piece).digest()[:16]
            self._pieces[ident] = piece
            tokens[place] = _TOKEN.pack(ident, len(piece))
        laid = b"".join(tokens)
        return laid if self.reuse(laid, 8192 * len(tokens)) else None
