"""Reading PostgreSQL's write-ahead log for the moments in it: commits, aborts, restore points. Pure; no server needed.

Sources: PostgreSQL's `access/xlogrecord.h`, `access/xlog_internal.h`, `access/xact.h`, `catalog/pg_control.h`, as they are
the same in 14 to 18. Only the 24 bytes at the head of each record are looked at, and a few more where it tells a time.
"""

from __future__ import annotations

import datetime as dt
import struct
from bisect import bisect_right
from typing import Final, Literal, NamedTuple, TypeAlias

from keepwell.core.clock import UTC
from keepwell.core.streams import Buffer
from keepwell.core.wal import DEFAULT_SEGMENT, show_lsn, valid_segment_size

PAGE: Final = 8192
Kind: TypeAlias = Literal["commit", "abort", "restore point", "checkpoint", "end of recovery"]

_MAGICS = {0xD10D: 14, 0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}
_PAGE_HEADER = struct.Struct("<HHIQI")
_LONG_HEADER = struct.Struct("<QII")
_SHORT, _LONG = 24, 40
_CONTINUES, _IS_LONG, _OVERWRITES = 1, 2, 8

_RECORD = struct.Struct("<IIQBB")
_RECORD_HEADER = 24
_LARGEST_RECORD = 1 << 30
_HEAD = 128
"""Within so many bytes of a record's beginning lies all that is read of it."""

_STAMP = struct.Struct("<q")
_EPOCH = dt.datetime(2000, 1, 1, tzinfo=UTC)
_UNIX_EPOCH = (dt.datetime(1970, 1, 1, tzinfo=UTC) - _EPOCH) // dt.timedelta(microseconds=1)
_LAST_STAMP = (dt.datetime(9999, 1, 1, tzinfo=UTC) - _EPOCH) // dt.timedelta(microseconds=1)
_XLOG, _TRANSACTION = 0, 1
_SWITCH = 0x40
_CHECKPOINT_TIME = 64
_NAME_LENGTH = 64

# By manager and kind of record, as `manager << 8 | info`.
_KINDS: dict[int, Kind] = {
    _TRANSACTION << 8 | 0x00: "commit",
    _TRANSACTION << 8 | 0x20: "abort",
    _TRANSACTION << 8 | 0x30: "commit",  # of a prepared transaction
    _TRANSACTION << 8 | 0x40: "abort",  # likewise
    _XLOG << 8 | 0x00: "checkpoint",  # at shutdown
    _XLOG << 8 | 0x10: "checkpoint",
    _XLOG << 8 | 0x70: "restore point",
    _XLOG << 8 | 0x90: "end of recovery",
}
_MASKS = {_XLOG: 0xF0, _TRANSACTION: 0x70}


class Moment(NamedTuple):
    """A record that tells a time. `lsn` is where it begins, `end` where it ends (both absolute)."""

    lsn: int
    end: int
    kind: Kind
    stamp: int
    """Microseconds since 2000-01-01 UTC; that of a checkpoint in whole seconds: when it began."""
    xid: int
    name: str = ""
    """Of a restore point."""

    @property
    def time(self) -> dt.datetime:
        return time_of(self.stamp)

    @property
    def decides(self) -> bool:
        """Whether a recovery to a time may stop at it: PostgreSQL looks at the ends of transactions only."""
        return self.kind in ("commit", "abort")


def time_of(stamp: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=stamp)


def stamp_of(time: dt.datetime) -> int:
    return (time - _EPOCH) // dt.timedelta(microseconds=1)


class Scanner:
    """Takes the log piece by piece, each beginning where the one before ended, and gives the moments in it.

    The first piece may begin anywhere: reading begins at the first record of the first page that begins in it. Pieces
    may end anywhere; a record counts once its last byte is there. Memory: a few hundred bytes besides the piece.
    """

    def __init__(self, *, segment_size: int = DEFAULT_SEGMENT) -> None:
        """Raises ValueError for a size that no segment has."""
        if not valid_segment_size(segment_size):
            raise ValueError(f"{segment_size} is not the size of a segment of the write-ahead log")
        self.segment_size = segment_size
        self.position: int | None = None
        """Where the next piece begins; None: anywhere. See `wants`."""
        self.end: int | None = None
        """Where the last whole record ends."""
        self.system: int | None = None
        """The cluster's identifier, once the first page of a segment was seen."""
        self.version: int | None = None
        """The server's major version."""
        self._synced = False
        self._carry = b""  # of a page's header that is not wholly here
        self._resume = 0  # nothing counts before this position: the rest of a segment that was left early
        self._stopped: int | None = None  # where the records ended although the segment did not
        self._prefix = b""  # of a record that is not wholly here, while there is less than _HEAD of it
        self._prefix_lsn = 0
        self._skip = 0  # bytes still to come of a record that was looked at
        self._begun: int | None = None  # where that record begins; None: before the first piece
        self._pending: Moment | None = None  # what it tells, once it is complete
        self.last: int | None = None
        """Where the last whole record begins."""

    @property
    def wants(self) -> int | None:
        """From where on the bytes matter: after a switch of segments nothing does before the next segment."""
        return None if self.position is None else max(self.position, self._resume)

    def feed(self, start: int, data: Buffer) -> list[Moment]:
        """The moments whose records end in this piece. Raises ValueError where it is no log of PostgreSQL 14 to 18, or
        not the continuation of what came before; then the scanner is of no further use.
        """
        if start < 0:
            raise ValueError("positions in the write-ahead log begin at 0")
        if self.position is not None and not self.position <= start <= max(self.position, self._resume):
            raise ValueError(f"the log goes on at {show_lsn(self.position)}, not at {show_lsn(start)}")
        self.position = start + len(data)
        raw = memoryview(self._carry + bytes(data) if self._carry else data)
        start -= len(self._carry)
        self._carry = b""
        at, end = start, start + len(raw)
        if not self._synced:
            at = -(-at // PAGE) * PAGE
        moments: list[Moment] = []
        while at < end:
            if at < self._resume:
                at = self._resume
                continue
            at, run = self._unwrap(at, raw, start)
            self._read(run, moments)
            if run.void is not None and self._resume <= run.void:
                self._leave(run.void, stopped=self._synced)
        return moments

    def _unwrap(self, at: int, raw: memoryview, start: int) -> tuple[int, _Run]:
        """The payload of the pages from `at` to the end of the segment, or to where it breaks off; and where to go on."""
        end = min(at - at % self.segment_size + self.segment_size, start + len(raw))
        run = _Run(self._prefix, self._prefix_lsn)
        while at < end:
            body, stop = at, min(at - at % PAGE + PAGE, end)
            if at % PAGE == 0:
                body += _LONG if at % self.segment_size == 0 else _SHORT
                header = bytes(raw[at - start : min(body, end) - start])
                if body > end:
                    self._carry = header
                    return end, run
                if not any(header):
                    # After a switch of segments the rest is zeros, and so is what was never written.
                    run.void = at
                    return end, run
                flags, remaining = self._header(at, header)
                if self._synced and flags & _OVERWRITES:
                    if run.parts:
                        return at, run
                    # A crash left the record before unfinished, and the server has written over the rest of it.
                    self._skip, self._pending, run.prefix = 0, None, b""
                if not self._synced:
                    self._synced = True
                    self._skip = _aligned(remaining) if flags & _CONTINUES else 0
            if stop > body:
                run.append(body, raw[body - start : stop - start])
            at = stop
        return at, run

    def _header(self, at: int, header: bytes) -> tuple[int, int]:
        """A page's flags, and how much of a record that began earlier it goes on with."""
        magic, flags, _timeline, address, remaining = _PAGE_HEADER.unpack_from(header)
        if magic not in _MAGICS:
            raise ValueError(f"at {show_lsn(at)} there is no page of a write-ahead log of PostgreSQL 14 to 18")
        if address != at:
            raise ValueError(f"the page at {show_lsn(at)} says that it is the one at {show_lsn(address)}")
        if bool(flags & _IS_LONG) != (len(header) == _LONG):
            raise ValueError(f"the log has no segments of {self.segment_size} bytes: see the page at {show_lsn(at)}")
        if self._stopped is not None:
            raise ValueError(f"the records stop at {show_lsn(self._stopped)}, and the log goes on at {show_lsn(at)}")
        self.version = _MAGICS[magic]
        if flags & _IS_LONG:
            system, segment_size, page_size = _LONG_HEADER.unpack_from(header, _SHORT)
            if segment_size != self.segment_size:
                raise ValueError(f"the log has segments of {segment_size} bytes, not of {self.segment_size}")
            if page_size != PAGE:
                raise ValueError(f"the log has pages of {page_size} bytes, and keepwell reads pages of {PAGE}")
            if self.system not in {None, system}:
                raise ValueError(f"the segment at {show_lsn(at)} is of cluster {system}, not {self.system}")
            self.system = system
        return flags, remaining

    def _read(self, run: _Run, moments: list[Moment]) -> None:
        """Adds the moments in a stretch of payload without holes."""
        payload = run.payload()
        at, self._prefix = 0, b""
        if self._skip:
            at = min(self._skip, len(payload))
            self._skip -= at
            if self._skip or not at:
                return
            self.last, self.end = self._begun, run.after(at)
            if self._pending:
                moments.append(self._pending._replace(end=self.end))
                self._pending = None
        at = self._scan(payload, at, run, moments)
        if at < len(payload):
            self._keep(payload, at, run)

    def _scan(self, payload: bytes, at: int, run: _Run, moments: list[Moment]) -> int:
        """Takes the whole records from `at`; where the first one begins that is not whole."""
        stop, rest, before = len(payload), len(payload), -1
        unpack = _RECORD.unpack_from
        while stop - at >= _RECORD_HEADER:
            total, xid, previous, info, manager = unpack(payload, at)
            if not _RECORD_HEADER <= total <= _LARGEST_RECORD:
                if total or payload.count(0, at) < stop - at:
                    raise ValueError(f"at {show_lsn(run.at(at))} there is no record of a write-ahead log")
                self._leave(run.at(at), stopped=True)
                break
            after = at + ((total + 7) & ~7)
            if after > stop:
                rest = at
                break
            if manager <= _TRANSACTION:
                kind = _KINDS.get(manager << 8 | info & _MASKS[manager])
                if kind:
                    lsn = run.at(at)
                    _check_order(lsn, previous, run.at(before) if before >= 0 else self.last)
                    moments.append(_moment(payload[at : at + min(total, _HEAD)], kind, lsn, run.after(after), xid))
                elif manager == _XLOG and info & 0xF0 == _SWITCH:
                    before, at = at, after
                    self._leave(run.after(after) - 1, stopped=False)
                    break
            before, at = at, after
        else:
            rest = at
        if before >= 0:
            self.last, self.end = run.at(before), run.after(at)
        return rest

    def _keep(self, payload: bytes, at: int, run: _Run) -> None:
        """Remembers a record whose end is still to come."""
        lsn = run.at(at)
        if len(payload) - at < _HEAD:
            self._prefix, self._prefix_lsn = payload[at:], lsn
            return
        total, xid, previous, info, manager = _RECORD.unpack_from(payload, at)
        self._skip, self._begun = at + _aligned(total) - len(payload), lsn
        kind = _KINDS.get(manager << 8 | info & _MASKS[manager]) if manager in _MASKS else None
        if kind:
            _check_order(lsn, previous, self.last)
            self._pending = _moment(payload[at : at + _HEAD], kind, lsn, lsn, xid)

    def _leave(self, position: int, *, stopped: bool) -> None:
        """Nothing of the segment counts from `position` on."""
        self._resume = position - position % self.segment_size + self.segment_size
        self._skip, self._pending, self._prefix = 0, None, b""
        if stopped and self._stopped is None:
            self._stopped = position


class _Run:
    """Payload without holes, and where in the log each part of it lies. `prefix`: the beginning, from an earlier piece."""

    def __init__(self, prefix: bytes, prefix_lsn: int) -> None:
        self.prefix, self._prefix_lsn = prefix, prefix_lsn
        self.parts: list[Buffer] = []
        self.void: int | None = None
        """A page of zeros that ends it."""
        self._starts: list[int] = []
        self._lsns: list[int] = []
        self._length = 0

    def append(self, lsn: int, part: memoryview) -> None:
        self._starts.append(self._length)
        self._lsns.append(lsn)
        self.parts.append(part)
        self._length += len(part)

    def payload(self) -> bytes:
        return b"".join((self.prefix, *self.parts))

    def at(self, offset: int) -> int:
        """The position in the log of a byte of the payload."""
        own = offset - len(self.prefix)
        if own < 0:
            # Only its first byte is ever asked for: a prefix is the beginning of one record.
            return self._prefix_lsn
        part = bisect_right(self._starts, own) - 1
        return self._lsns[part] + own - self._starts[part]

    def after(self, offset: int) -> int:
        """The position in the log behind so many bytes of the payload."""
        return self.at(offset - 1) + 1


def _moment(head: bytes, kind: Kind, lsn: int, end: int, xid: int) -> Moment:
    """From the first bytes of a record. Raises ValueError."""
    body, length = _main_data(head, lsn)
    wanted = {"restore point": _STAMP.size + _NAME_LENGTH, "checkpoint": _CHECKPOINT_TIME + _STAMP.size}
    if min(length, len(head) - body) < wanted.get(kind, _STAMP.size):
        raise ValueError(f"the record at {show_lsn(lsn)} is too short for its kind ({kind})")
    name = ""
    if kind == "checkpoint":
        (seconds,) = _STAMP.unpack_from(head, body + _CHECKPOINT_TIME)
        stamp = seconds * 1_000_000 + _UNIX_EPOCH
    else:
        (stamp,) = _STAMP.unpack_from(head, body)
        if kind == "restore point":
            raw = head[body + _STAMP.size : body + _STAMP.size + _NAME_LENGTH]
            name = raw.split(b"\0", 1)[0].decode(errors="replace")
    if not _UNIX_EPOCH <= stamp <= _LAST_STAMP:
        raise ValueError(f"the record at {show_lsn(lsn)} tells a time that cannot be")
    return Moment(lsn, end, kind, stamp, xid, name)


def _main_data(head: bytes, lsn: int) -> tuple[int, int]:
    """Where a record's own data begins, and how long it is. Raises ValueError."""
    at = _RECORD_HEADER
    while at + 5 <= len(head):
        match head[at]:
            case 255:
                return at + 2, head[at + 1]
            case 254:
                return at + 5, int.from_bytes(head[at + 1 : at + 5], "little")
            case 253:  # the origin of a replicated transaction
                at += 3
            case 252:  # the transaction above a subtransaction
                at += 5
            case _:
                break
    raise ValueError(f"the record at {show_lsn(lsn)} cannot be read")


def _check_order(lsn: int, previous: int, before: int | None) -> None:
    """Every record tells where the one before it begins."""
    if before is not None and previous != before:
        raise ValueError(
            f"the record at {show_lsn(lsn)} follows one at {show_lsn(previous)}, and before it is one at {show_lsn(before)}"
        )


def _aligned(size: int) -> int:
    return (size + 7) & ~7
