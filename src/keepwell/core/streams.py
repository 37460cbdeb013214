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
_PLACE = 8
_ROOM = 1 << 20


@dataclass(frozen=True, slots=True)
class Held:
    """Pieces that the vault has, as `Sink.find` gives them: it knows where, and need not look again as long as the backup runs."""

    ids: memoryview
    """As `take_ids` gave them, 20 bytes each."""
    places: memoryview
    """The vault's own, 8 bytes each."""

    def __len__(self) -> int:
        return len(self.places) // _PLACE

    def part(self, first: int, stop: int) -> Held:
        size = _TOKEN.size
        return Held(self.ids[size * first : size * stop], self.places[_PLACE * first : _PLACE * stop])


class StreamWriter(Protocol):
    """One stream being captured. One thread at a time writes to it; different streams may have different threads."""

    @property
    def position(self) -> int:
        """Bytes of the stream so far."""
        ...

    def write(self, data: Buffer) -> None:
        """Append. The buffer is not kept after the call. Big calls (256 KiB and more) are cheapest."""
        ...

    def room(self, size: int) -> memoryview:
        """Memory for the next bytes: at least 8 KiB of them, whole pages where `size` is, and at most `size`. What is written from there
        before anything else need not be copied. Good until the next call of any of these.
        """
        ...

    def boundary(self) -> None:
        """End the current piece, so that what follows (a new file, a new table) deduplicates by itself."""
        ...

    def take_ids(self) -> bytes:
        """The pieces since the last `boundary()`, 20 bytes each (id, u32 length), also those that were known; ends the current
        piece first.

        For a cache that lets a later backup `reuse` them without reading the source again.
        """
        ...

    def reuse(self, ids: bytes | Held, size: int) -> bool:
        """Append `size` bytes known from an earlier backup by their piece ids; ends the current piece first.

        False (and nothing appended) when any of them is no longer in the vault: then read the source. Never so for what is held.
        """
        ...

    def overlay(self, pages: Held, places: Sequence[int], data: Buffer) -> None:
        """Append whole pages of 8 KiB: these, with the ones at `places` (rising) replaced by those of `data`.

        Thousands of short runs of known and new pages cost no more than as many pages in one.
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

    def find(self, ids: Buffer) -> Held | None:
        """These pieces (as `take_ids` gave them), where the vault has all of them.

        Then a `reuse` of them succeeds for as long as this backup runs: for sources that must know before they ask for
        changes only.
        """
        ...

    def spread(self, held: Held) -> float:
        """How scattered these pieces lie: bytes to decode for each byte of them; about 1 where they were stored together."""
        ...


Put: TypeAlias = Callable[[list[tuple[int, Buffer]]], None]
"""Takes bytes and where in the stream each of them begins. They are not kept after the call."""


class Streams(Protocol):
    """The streams of one source in one backup, for reading. Safe to use from several threads."""

    def names(self) -> list[str]: ...

    def size(self, name: str) -> int: ...

    def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Verified bytes, in blocks of any size. Raises Damaged rather than give fewer bytes than asked for."""
        ...

    def scatter(self, name: str, put: Put) -> None:
        """Hands out the whole stream, every byte once, verified, in the order that is fastest to read.

        For restores that can write anywhere: a stream whose pieces lie scattered is read frame by frame. `put` is called by several
        threads at the same time, each with some places at once; what it raises is raised here. Raises Damaged.
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


def in_order(streams: Streams, name: str, put: Put) -> None:
    """`scatter` for streams that lie in one piece."""
    at = 0
    for block in streams.read(name):
        put([(at, block)])
        at += len(block)


class Discard:
    """A sink that keeps nothing: for capturing only the facts (the round trip of a proof)."""

    def stream(self, name: str, cut: Cut = "content") -> StreamWriter:
        return _Discarded()

    def find(self, ids: Buffer) -> Held | None:
        return None

    def spread(self, held: Held) -> float:
        return 1.0


class _Discarded:
    def __init__(self) -> None:
        self.position = 0

    def room(self, size: int) -> memoryview:
        return memoryview(bytearray(min(size, _ROOM)))

    def write(self, data: Buffer) -> None:
        self.position += len(data)

    def boundary(self) -> None:
        pass

    def take_ids(self) -> bytes:
        return b""

    def reuse(self, ids: bytes | Held, size: int) -> bool:
        return False

    def overlay(self, pages: Held, places: Sequence[int], data: Buffer) -> None:
        raise ValueError("nothing is held by a sink that keeps nothing")

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

    def find(self, ids: Buffer) -> Held | None:
        if not all(piece in self.pieces for piece, _ in _TOKEN.iter_unpack(ids)):
            return None
        return Held(memoryview(ids), memoryview(bytes(_PLACE * (len(ids) // _TOKEN.size))))

    def spread(self, held: Held) -> float:
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

    def scatter(self, name: str, put: Put) -> None:
        for at in reversed(range(0, len(self.data[name]), 1 << 20)):
            put([(at, bytes(self.data[name][at : at + (1 << 20)]))])


class _InMemory(_Discarded):
    """Pieces are 8 KiB from the last boundary on."""

    def __init__(self, data: bytearray, pieces: dict[bytes, bytes]) -> None:
        super().__init__()
        self._data, self._pieces, self._since = data, pieces, 0
        self._ids = bytearray()

    def write(self, data: Buffer) -> None:
        self._data += data
        self.position = len(self._data)

    def boundary(self) -> None:
        self._since, self._ids = len(self._data), bytearray()

    def take_ids(self) -> bytes:
        self._end()
        ids, self._ids = bytes(self._ids), bytearray()
        return ids

    def reuse(self, ids: bytes | Held, size: int) -> bool:
        known_as = ids.ids if isinstance(ids, Held) else ids
        found = [self._pieces.get(piece) for piece, _ in _TOKEN.iter_unpack(known_as)]
        known = [piece for piece in found if piece is not None]
        if len(known) < len(found) or sum(map(len, known)) != size:
            return False
        self._end()
        self.write(b"".join(known))
        self._ids += known_as
        self._since = len(self._data)
        return True

    def overlay(self, pages: Held, places: Sequence[int], data: Buffer) -> None:
        laid = [self._pieces[piece] for piece, _ in _TOKEN.iter_unpack(pages.ids)]
        for n, place in enumerate(places):
            laid[place] = bytes(data[8192 * n : 8192 * (n + 1)])
        self._end()
        self.write(b"".join(laid))

    def _end(self) -> None:
        """Ends the current piece."""
        for at in range(self._since, len(self._data), 8192):
            piece = bytes(self._data[at : at + 8192])
            ident = hashlib.sha256(piece).digest()[:16]
            self._pieces[ident] = piece
            self._ids += _TOKEN.pack(ident, len(piece))
        self._since = len(self._data)
