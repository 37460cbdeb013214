"""The contract between sources and the vault: named, ordered bytes, and facts about them.

A source *captures* by writing streams into a `Sink`, and *restores* by reading them from `Streams`.
Neither side knows the other: `operations` brings them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
        """The ids (16 bytes each) of the pieces since the last `boundary()`; ends the current piece first.

        For a cache that lets a later backup `reuse` them without reading the source again.
        """
        ...

    def reuse(self, ids: bytes, size: int) -> bool:
        """Append `size` bytes known from an earlier backup by their piece ids.

        False (and nothing appended) when any of them is no longer in the vault: then read the source.
        """
        ...

    def close(self) -> None:
        """End the stream. Must be called; a stream left open makes the commit fail."""
        ...


class Sink(Protocol):
    """Where a source puts its streams during one backup. `stream` may be called from any thread."""

    def stream(self, name: str, cut: Cut = "content") -> StreamWriter: ...


class Streams(Protocol):
    """The streams of one source in one backup, for reading. Safe to use from several threads."""

    def names(self) -> list[str]: ...

    def size(self, name: str) -> int: ...

    def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Verified bytes, in blocks of any size. Raises Damaged rather than give fewer bytes than asked for."""
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


class Discard:
    """A sink that keeps nothing: for capturing only the facts (the round trip of a proof)."""

    def stream(self, name: str, cut: Cut = "content") -> StreamWriter:
        return _Discarded()


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

    def stream(self, name: str, cut: Cut = "content") -> StreamWriter:
        if name in self.data:
            raise ValueError(f"stream {name!r} was begun twice")
        self.data[name] = bytearray()
        return _InMemory(self.data[name])

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


class _InMemory(_Discarded):
    def __init__(self, data: bytearray) -> None:
        super().__init__()
        self._data = data

    def write(self, data: Buffer) -> None:
        self._data += data
        self.position = len(self._data)
