"""What a receiver of log is given and gives: its plan, its report, and what it needs of a server and of a vault."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any, Protocol

from keepwell.core.errors import SourceError
from keepwell.core.streams import Buffer
from keepwell.sources.physical import slot as slots


class LogLost(SourceError):
    """The server no longer has log that the vault lacks."""


class Diverged(SourceError):
    """The server's log is not the one that the vault has."""


class Copy(Protocol):
    """START_REPLICATION, while it runs."""

    @property
    def closed(self) -> bool:
        """The server has ended the stream."""
        ...

    def receive(self, timeout: float) -> Buffer | None:
        """One message; None where the time ran out or the stream has ended."""
        ...

    def send(self, data: bytes) -> None: ...

    def finish(self) -> list[dict[str, str | None]]:
        """Ends the stream from our side; the timeline that follows, where there is one."""
        ...


class Link(slots.Link, Protocol):
    """A replication connection."""

    def identify(self) -> Any: ...

    def show(self, name: str) -> str: ...

    def timeline_history(self, timeline: int) -> tuple[str, bytes]: ...

    def copy_both(self, command: str) -> Copy: ...

    def close(self) -> None: ...


class Archive(Protocol):
    """`vault.wal.WalArchive`, as far as it is needed here."""

    def put(self, timeline: int, start: int, data: Buffer, *, segment_size: int, time: dt.datetime) -> bool: ...

    def put_file(self, name: str, data: bytes, *, time: dt.datetime) -> bool: ...

    def coverage(self) -> Any: ...


@dataclass(frozen=True)
class Plan:
    """What a receiver is to do."""

    slot: str
    place: str
    """For messages: `production/app`."""
    once: bool = False
    """End when everything is stored that the server had at the beginning."""
    until: int | None = None
    """End when the log up to this position is stored."""
    accept_gap: bool = False
    """Go on where the server no longer has what the vault lacks."""
    every: float = 10.0
    """Seconds after which the beginning of a segment is stored."""


@dataclass
class Received:
    """What a receiver did."""

    system: str = ""
    timeline: int = 0
    position: int = 0
    """Everything of the timeline before it, from where this run began, is in the vault."""
    bytes: int = 0
    pieces: int = 0
    connections: int = 0
    switches: int = 0
    gaps: list[tuple[int, int, int]] = field(default_factory=list)
    """(timeline, start, end) of log that the vault lacks, as far as it was met."""
    seconds: float = 0.0
