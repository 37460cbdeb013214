"""The log of one cluster in the vault: putting, looking what is there, reading (docs/format.md, section 11)."""

from __future__ import annotations

import datetime as dt
import re
import threading
from typing import TYPE_CHECKING

from keepwell.core import zstd
from keepwell.core.errors import Damaged, ObjectExists, ObjectMissing, SourceError
from keepwell.core.streams import Buffer, Json
from keepwell.core.wal import show_lsn
from keepwell.vault import walobject
from keepwell.vault.walcoverage import Coverage, Part, coverage_of, parse_part, part_name
from keepwell.vault.walobject import Content, Head

if TYPE_CHECKING:
    from keepwell.vault.vault import Vault

_FILE = re.compile(r"[0-9A-F]{8}(?:[0-9A-F]{16}(?:\.partial|\.[0-9A-F]{8}\.backup)|\.history)")
_SYSTEM = re.compile(r"[0-9]{1,20}")
_KEPT = 64
"""So many opened objects are remembered."""


class WalConflict(SourceError):
    """The vault has other bytes under this name."""


class WalMissing(Damaged):
    """Log that was asked for is not in the vault. `position` is the first missing byte."""

    def __init__(self, message: str, *, timeline: int, position: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.timeline, self.position = timeline, position


class WalArchive:
    """The log of one cluster, as one source of an environment. Safe to use from several threads."""

    def __init__(self, vault: Vault, environment: str, source: str, system: str, *, level: int = zstd.OWN) -> None:
        if not _SYSTEM.fullmatch(system):
            raise ValueError(f"{system!r} is not a system identifier")
        self.environment, self.source, self.system = environment, source, system
        self.folder = f"wal/{environment}/{source}/{system}/"
        self._vault, self._store, self._keyring, self._level = vault, vault.store, vault.keyring, level
        self._opened: dict[str, Content] = {}
        self._parts: list[Part] | None = None
        self._lock = threading.Lock()

    def put(self, timeline: int, start: int, data: Buffer, *, segment_size: int, time: dt.datetime) -> bool:
        """Log from the position `start` on, within one segment; durable when it returns.

        True: stored. False: the very same bytes were there already. Raises WalConflict where other bytes are there,
        Damaged where what is there cannot be told, UnsafeStore, UnsupportedFormat, StoreError.
        """
        size = len(memoryview(data).cast("B")) if not isinstance(data, bytes) else len(data)
        end = start + size
        if not size or start < 0 or start // segment_size != (end - 1) // segment_size:
            raise ValueError(f"{show_lsn(start)} to {show_lsn(end)} does not lie within one segment")
        self._writable()
        name = self.folder + part_name(timeline, start, end, segment_size)
        about: dict[str, Json] = {"start": start, "end": end, "timeline": timeline, "segment_size": segment_size}
        found = False
        for info in self._store.list(name.rpartition("/")[0] + "/"):
            if info.name == name:
                found = self._same(name, data, info.size)
            elif (part := parse_part(self.folder, info)) and start <= part.start and part.end <= end:
                self._same(part.name, memoryview(data)[part.start - start : part.end - start], info.size)
        if found:
            self._store.flush()
            return False
        return self._put(name, data, time, about)

    def put_file(self, name: str, data: bytes, *, time: dt.datetime) -> bool:
        """A file beside the log: a history, a `.backup`, a `.partial`. As `put`. Raises ValueError for other names."""
        if not _FILE.fullmatch(name):
            raise ValueError(f"{name!r} is no file of the log")
        self._writable()
        return self._put(self.folder + "files/" + name, data, time, {"file": name, "size": len(data)})

    def read_file(self, name: str) -> bytes:
        """Raises ObjectMissing, Damaged, KeyCannotRead, StoreError."""
        whole = self.folder + "files/" + name
        head = walobject.read_head(self._store, self._keyring, whole)
        if head.about.get("file") != name:
            raise Damaged(f"{whole} is another file")
        return Content(self._store, self._keyring, head).read(0, head.size)

    def files(self) -> list[str]:
        folder = self.folder + "files/"
        return [info.name.removeprefix(folder) for info in self._store.list(folder)]

    def coverage(self) -> Coverage:
        """From one listing."""
        found = coverage_of(self.folder, self._store.list(self.folder), self.read_file, self.read)
        with self._lock:
            self._parts = found.parts
        return found

    def segment_size(self, coverage: Coverage) -> int | None:
        """By the names, else by the head of a part; None where there is none. Raises Damaged, StoreError."""
        if coverage.segment_size is None and coverage.parts:
            return int(self.head(coverage.parts[-1]).about["segment_size"])
        return coverage.segment_size

    def head(self, part: Part) -> Head:
        """What any key can tell of a part. Raises Damaged (also where its size is wrong), ObjectMissing."""
        head = walobject.read_head(self._store, self._keyring, part.name)
        if (head.about.get("timeline"), head.about.get("start"), head.about.get("end")) != (
            part.timeline,
            part.start,
            part.end,
        ):
            raise Damaged(f"{part.name} holds other log than its name says")
        if head.stored != part.size:
            raise Damaged(f"{part.name} has {part.size} bytes instead of {head.stored}: it was cut short or altered")
        return head

    def content(self, part: Part) -> Content:
        """Raises KeyCannotRead, Damaged, ObjectMissing, StoreError."""
        with self._lock:
            known = self._opened.get(part.name)
        if known is None:
            known = Content(self._store, self._keyring, self.head(part))
            with self._lock:
                while len(self._opened) >= _KEPT:
                    del self._opened[next(iter(self._opened))]
                self._opened[part.name] = known
        return known

    def read(self, timeline: int, start: int, length: int) -> bytes:
        """Verified log, put together from the parts. Raises WalMissing, Damaged, KeyCannotRead, StoreError."""
        with self._lock:
            parts = self._parts
        if parts is not None:
            try:
                return self._read(parts, timeline, start, length)
            except (WalMissing, ObjectMissing):  # more has come, or a prune has dropped a part for the whole segment
                pass
        try:
            return self._read(self.coverage().parts, timeline, start, length)
        except ObjectMissing as error:
            raise Damaged(
                f"log went away while it was read: {error.message}",
                hint="Run it again; `keepwell check` looks further.",
            ) from None

    def _read(self, parts: list[Part], timeline: int, start: int, length: int) -> bytes:
        mine = [p for p in parts if p.timeline == timeline and p.start < start + length and p.end > start]
        out, at, end = [], start, start + length
        while at < end:
            # The one that reaches furthest: the fewest objects, and the whole segment where it is there.
            best = max((p for p in mine if p.start <= at < p.end), key=lambda p: p.end, default=None)
            if best is None:
                raise WalMissing(
                    f"log of timeline {timeline} is missing from {show_lsn(at)} on, for {self.environment}/{self.source}",
                    timeline=timeline,
                    position=at,
                    hint="`keepwell wal status` shows what there is.",
                )
            upto = min(best.end, end)
            out.append(self.content(best).read(at - best.start, upto - at))
            at = upto
        return out[0] if len(out) == 1 else b"".join(out)

    def _writable(self) -> None:
        self._vault.config.require("write")
        self._vault.prove_store()

    def _put(self, name: str, data: Buffer, time: dt.datetime, about: dict[str, Json]) -> bool:
        raw = walobject.encode(self._keyring, name, data, time=time, about=about, level=self._level)
        while True:
            try:
                self._store.put(name, raw)
                stored = True
            except ObjectExists:
                if not self._same(name, data):
                    continue
                stored = False
            self._store.flush()
            return stored

    def _same(self, name: str, data: Buffer, size: int | None = None) -> bool:
        """That the object has these very bytes, by what any key can tell. False: it is there no more."""
        try:
            size = self._store.head(name).size if size is None else size
            head = walobject.read_head(self._store, self._keyring, name)
            if head.stored != size:
                raise Damaged(f"{name} has {size} bytes instead of {head.stored}: it was cut short or altered")
        except ObjectMissing:  # deleted by a prune meanwhile
            return False
        except Damaged as error:
            raise Damaged(
                error.message,
                hint=f"The vault's copy of this log is damaged. Put {name} back from a copy of the vault, or delete it in the "
                "store: then it is stored anew, as long as the server still has it.",
            ) from None
        if head.digest != walobject.digest_of(self._keyring, data):
            raise WalConflict(
                f"the vault has other log under the name {name.removeprefix(self.folder)} for "
                f"{self.environment}/{self.source}",
                hint="Two servers with the same system identifier write to one source (a copy that was brought up beside the "
                "old server?), or the server wrote this log anew. Stop the one that is wrong, or give it a source of its own; "
                "then take a new backup. Nothing was overwritten.",
            )
        return True


def systems(vault: Vault, environment: str, source: str) -> list[str]:
    """The clusters that there is log of, by their system identifiers."""
    prefix = f"wal/{environment}/{source}/"
    return sorted({info.name.removeprefix(prefix).partition("/")[0] for info in vault.store.list(prefix)})
