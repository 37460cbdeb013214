"""A base backup from the files themselves, where keepwell runs on the host of the server and may read them.

Between pg_backup_start and pg_backup_stop, as the server itself does it for BASE_BACKUP, but without sending everything through
a connection; and a relation file that has not been written since the last backup is not read again. That is known by the kernel's
times: of a server that has been running ever since, each write changes `mtime` and `ctime`. See docs/why/no-chains.md.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import struct
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepwell.core.errors import Interrupted, SourceError
from keepwell.core.streams import Context
from keepwell.core.wal import parse_lsn, segment_name
from keepwell.sources.physical.basebackup import BaseBackup, damaged_pages
from keepwell.sources.physical.checksums import PAGE, Verifier, damaged_page
from keepwell.sources.physical.files import Files
from keepwell.sources.physical.listing import CONTROL, Item, Listing, listing
from keepwell.sources.physical.previous import Previous, Stamp
from keepwell.sources.physical.replication import Identity
from keepwell.sources.physical.spec import Spec
from keepwell.sources.postgres.connection import Address, Connection, connected

_AT_ONCE = 4 << 20
_PATIENT = "-c statement_timeout=0 -c idle_session_timeout=0 -c lock_timeout=0"
"""The session has to last as long as the backup."""
_START, _START_14 = (
    "SELECT pg_backup_start('keepwell', %s)::text",
    "SELECT pg_start_backup('keepwell', %s, false)::text",
)
_STOP, _STOP_14 = (
    "SELECT lsn::text, labelfile FROM pg_backup_stop(wait_for_archive => false)",
    "SELECT lsn::text, labelfile FROM pg_stop_backup(false, wait_for_archive => false)",
)
"""The functions had other names before 15."""
_SETTLED = 2_000_000_000
"""Nanoseconds: a file that was written so shortly before it was looked at may be written again within one tick of the clock."""


@dataclass(frozen=True)
class Place:
    """A data directory that can be read here."""

    data: Path
    started: str
    """When the server was started, as it says: the same server runs as long as this stays the same."""


def find(address: Address, identity: Identity) -> tuple[Place | None, str]:
    """The data directory of the server; or None, and why its files cannot be read here. Raises SourceError."""
    with connected(address) as connection:
        row = connection.execute(
            "SELECT current_setting('data_directory', true), extract(epoch FROM pg_postmaster_start_time())::text, "
            "pg_is_in_recovery(), has_function_privilege(p.oid, 'EXECUTE') FROM pg_proc AS p "
            "WHERE proname IN ('pg_backup_start', 'pg_start_backup')"
        ).fetchone()
    assert row is not None
    folder, started, standby, may = row
    if standby:
        return None, "it is a standby"
    if not may:
        return None, "the role may not execute pg_backup_start"
    if not folder:
        return None, "the role may not see data_directory (grant it pg_read_all_settings)"
    data = Path(folder)
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        with (data / CONTROL).open("rb") as file:
            (system,) = struct.unpack("=Q", file.read(8))
        # The same name may be another cluster's here: in a container, behind a tunnel.
        if str(system) != identity.system or abs(float(started) - int(lines[2])) > 2:
            return None, "its data directory is not on this machine"
    except FileNotFoundError:
        return None, "its data directory is not on this machine"
    except (OSError, ValueError, IndexError, struct.error) as error:
        return None, f"its data directory cannot be read here ({getattr(error, 'strerror', None) or error})"
    return Place(data, started), ""


class Direct:
    """One backup."""

    def __init__(
        self,
        place: Place,
        address: Address,
        spec: Spec,
        context: Context,
        about: dict[str, Any],
        previous: Previous | None,
    ) -> None:
        """`previous`: of the same running server, and the vault holds all of it."""
        self._place, self._address, self._spec, self._context, self._about = place, address, spec, context, about
        self._previous = previous
        self.relations = 0
        """Relation files."""
        self.unchanged = 0
        """Those that were not read, since they are as they were."""
        self.stamps: dict[str, Stamp] = {}
        """Of relation files, for the next time."""
        self._rooms = [memoryview(bytearray(_AT_ONCE)) for _ in range(2)]
        self._task = f"{address.place}: base backup"

    def take(self, files: Callable[[Verifier | None], Files]) -> tuple[BaseBackup, Files]:
        """Raises SourceError, Interrupted."""
        found = BaseBackup()
        version, checked = int(self._about["server_version"]), self._about["data_checksums"] == "on"
        with connected(self._address, _PATIENT) as connection:
            found.start = self._start(connection, version)
            verifier = Verifier(found.start, int(self._about["segment_size"])) if checked else None
            try:
                there = listing(self._place.data)
                found.tablespaces, found.size = there.tablespaces, there.size
                self._context.progress.begin(self._task, found.size)
                taken = files(verifier)
                with ThreadPoolExecutor(1, "read") as reader:
                    self._read(there, taken, reader)
                found.warnings += [f"skipping special file {path}" for path in there.odd]
            except OSError as error:
                raise _unreadable(error) from error
            label = self._stop(connection, version, found)
        try:
            taken.whole("backup_label", 0o600, label)
            self._log(found, taken)
        except OSError as error:
            raise _unreadable(error) from error
        taken.close()
        if verifier is not None:
            found.damaged = [page for page in verifier.found if self._is_damaged(page, found.start)]
            found.corrupted = bool(found.damaged)
            if found.damaged and self._spec.on_damaged_page == "fail":
                raise damaged_pages(self._address.place, found.damaged, [])
        self._context.progress.end(self._task)
        return found, taken

    def _start(self, connection: Connection, version: int) -> int:
        self._context.progress.note(f"{self._address.place}: waiting for a checkpoint")
        row = connection.execute(
            _START_14 if version < 150000 else _START, [self._spec.checkpoint == "fast"]
        ).fetchone()
        assert row is not None
        return parse_lsn(row[0])

    def _stop(self, connection: Connection, version: int, found: BaseBackup) -> bytes:
        """The backup label. The log that the backup needs is complete then."""
        row = connection.execute(_STOP_14 if version < 150000 else _STOP).fetchone()
        assert row is not None
        found.stop = parse_lsn(row[0])
        timeline = re.search(r"^START TIMELINE: (\d+)$", row[1], re.MULTILINE)
        if timeline is None:
            raise SourceError(f"{self._address.place}: the server's backup label names no timeline", hint="Try again.")
        found.timeline = int(timeline[1])
        return str(row[1]).encode()

    def _read(self, there: Listing, files: Files, reader: Executor) -> None:
        for oid, place in there.tablespaces.items():
            files.link(oid, place)
        for item in there.items:
            if self._context.cancelled():
                raise Interrupted("the backup was interrupted", hint="Nothing was changed; start it again.")
            if item.kind == "dir":
                files.folder(item.path, item.mode)
            else:
                self._file(item, files, reader)
            self._context.progress.advance(self._task, item.size)
        # Last: a recovery begins with what it says, which must be no older than what was read before.
        self._file(Item(CONTROL, "file", 0o600, 0), files, reader)

    def _file(self, item: Item, files: Files, reader: Executor) -> None:
        """A file that is gone stays out: the log says so, too."""
        try:
            handle = os.open(self._place.data / item.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            # Looked at before it is read: what is written from here on changes the times.
            about, now = os.fstat(handle), int(self._context.clock.now().timestamp() * 1e9)
            mode, size = stat.S_IMODE(about.st_mode), about.st_size
            if files.is_relation(item.path) and size % PAGE == 0:
                self.relations += 1
                stamp = Stamp(size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino)
                if max(stamp.written, stamp.changed) < now - _SETTLED:
                    self.stamps[item.path] = stamp
                known = self._previous.unchanged(item.path, stamp) if self._previous else None
                if known is not None and not files.stores_anew(item.path):
                    files.known(item.path, mode, known)
                    self.unchanged += 1
                    return
            files.open(item.path, mode, size)
            self._copy(handle, size, files, reader)
        finally:
            os.close(handle)

    def _copy(self, handle: int, size: int, files: Files, reader: Executor) -> None:
        """While one part is taken apart, the next is being read: on two processors that is a third faster."""
        parts = [(at, self._rooms[n % 2][: size - at]) for n, at in enumerate(range(0, size, _AT_ONCE))]
        if not parts:
            return
        coming: Future[memoryview] | None = None
        try:
            for now, then in zip(parts, [*parts[1:], None], strict=True):
                part = coming.result() if coming else _filled(handle, *now)
                coming = reader.submit(_filled, handle, *then) if then else None
                files.write(part)
        finally:
            if coming:
                wait([coming])

    def _log(self, found: BaseBackup, files: Files) -> None:
        """From the segment in which the backup began to the one in which it ended, and the histories of timelines."""
        folder, size = self._place.data / "pg_wal", int(self._about["wal_segment_size"])
        first, last = found.start // size, (found.stop - 1) // size
        names = [segment_name(found.timeline, number * size, size) for number in range(first, last + 1)]
        names += sorted(path.name for path in folder.iterdir() if re.fullmatch(r"[0-9A-F]{8}\.history", path.name))
        for name in names:
            try:
                data = (folder / name).read_bytes()
            except FileNotFoundError:
                data = b""
            if not data or (not name.endswith(".history") and len(data) != size):
                raise SourceError(
                    f"{self._address.place} no longer has the log that the backup needs: pg_wal/{name}",
                    hint="Raise wal_keep_size on the server, or leave it a free replication slot; then start the backup again.",
                )
            files.whole(f"pg_wal/{name}", 0o600, data)
            # A restored server must not archive it a second time.
            files.whole(f"pg_wal/archive_status/{name}.done", 0o600, b"")

    def _is_damaged(self, page: tuple[str, int], start: int) -> bool:
        """Whether it still is when it is read again: a page that was being written has a newer position by then."""
        path, block = page
        with contextlib.suppress(FileNotFoundError), (self._place.data / path).open("rb") as file:
            file.seek(block * PAGE)
            return damaged_page(file.read(PAGE), path, block, int(self._about["segment_size"]), start)
        return False


def _filled(handle: int, at: int, room: memoryview) -> memoryview:
    """A file is as long as it was when it was looked at: what it gained since, and what it lost, stands in the log."""
    done = 0
    while done < len(room) and (count := os.preadv(handle, [room[done:]], at + done)):
        done += count
    room[done:] = bytes(len(room) - done)
    return room


def _unreadable(error: OSError) -> SourceError:
    return SourceError(
        f"{error.filename or 'a file of the cluster'} cannot be read: {error.strerror}",
        hint='Run keepwell as the user of the server, or set read_from = "server" on the source.',
    )
