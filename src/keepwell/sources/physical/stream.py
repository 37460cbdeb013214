"""The messages of PostgreSQL's streaming replication, without a connection (protocol: "Streaming Replication Protocol")."""

from __future__ import annotations

import datetime as dt
import struct
from dataclasses import dataclass

from keepwell.core.errors import SourceError
from keepwell.core.streams import Buffer

EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
"""From which PostgreSQL counts microseconds."""

_DATA = struct.Struct(">cQQq")
_KEEPALIVE = struct.Struct(">cQqB")
_STATUS = struct.Struct(">cQQQqB")


@dataclass(frozen=True)
class LogData:
    """Bytes of the log, from `start` on."""

    start: int
    server_end: int
    """How far the server's log goes."""
    time: dt.datetime
    """When the server sent it, by its clock."""
    data: memoryview

    @property
    def end(self) -> int:
        return self.start + len(self.data)


@dataclass(frozen=True)
class Keepalive:
    server_end: int
    time: dt.datetime
    reply: bool
    """The server wants to hear from us at once."""


def parse(message: Buffer) -> LogData | Keepalive:
    """One message of the server. Raises SourceError where it is none that the protocol knows."""
    view = memoryview(message)
    kind = bytes(view[:1])
    if kind == b"w" and len(view) >= _DATA.size:
        _, start, end, time = _DATA.unpack_from(view)
        return LogData(start, end, _moment(time), view[_DATA.size :])
    if kind == b"k" and len(view) == _KEEPALIVE.size:
        _, end, time, reply = _KEEPALIVE.unpack(view)
        return Keepalive(end, _moment(time), reply != 0)
    raise SourceError(
        f"the server sent {len(view)} bytes that are no message of streaming replication (they begin with {kind!r})",
        hint="See that the source's address is that of a PostgreSQL server itself, not of a pooler.",
    )


def status(*, written: int, flushed: int, time: dt.datetime, reply: bool = False) -> bytes:
    """What the server is told: received up to `written`, safe up to `flushed`. With `reply` it shall answer at once.

    Nothing is ever applied here; PostgreSQL takes 0 for "unknown".
    """
    return _STATUS.pack(b"r", written, flushed, 0, _microseconds(time), reply)


def _moment(microseconds: int) -> dt.datetime:
    try:
        return EPOCH + dt.timedelta(microseconds=microseconds)
    except OverflowError:
        raise SourceError(
            "the server sent a time that no calendar has",
            hint="See that the source's address is that of a PostgreSQL server itself.",
        ) from None


def _microseconds(moment: dt.datetime) -> int:
    return (moment - EPOCH) // dt.timedelta(microseconds=1)
