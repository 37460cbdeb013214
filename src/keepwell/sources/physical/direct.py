"""A base backup from the files themselves, where keepwell runs on the host of the server and may read them.

Between pg_backup_start and pg_backup_stop, as the server itself does it for BASE_BACKUP, but without sending everything through
a connection; and what was not written since the last backup is not read again. Of 17 and newer the server's summaries of its log
know the pages that were. The kernel's times know the files: of a server that has been running ever since, each write changes
`mtime` and `ctime`. See docs/why/no-chains.md.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keepwell.core.errors import Interrupted, SourceError
from keepwell.core.streams import Context
from keepwell.core.wal import parse_lsn, segment_name, show_lsn
from keepwell.sources.physical.basebackup import BaseBackup, damaged_pages
from keepwell.sources.physical.checksums import PAGE, Numbers, Verifier, damaged_page
from keepwell.sources.physical.files import Files
from keepwell.sources.physical.incremental import runs
from keepwell.sources.physical.listing import CONTROL, Item, Listing, listing
from keepwell.sources.physical.previous import Previous, Stamp
from keepwell.sources.physical.replication import Identity
from keepwell.sources.physical.spec import Spec
from keepwell.sources.physical.summaries import Changes, Untold, changes
from keepwell.sources.postgres.connection import Address, Connection, connected

_AHEAD = 8 << 20
"""Bytes that are asked of the disk before they are needed."""
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
        since: tuple[int, int] | None,
    ) -> None:
        """`previous`: of the same cluster, and the vault holds all of it. `since`: its positions in the log, where the server's
        summaries may say what changed since then.
        """
        self._place, self._address, self._spec, self._context, self._about = place, address, spec, context, about
        self._previous, self._since = previous, since
        # Whoever started it anew may have done anything to the files before.
        self._stamped = previous is not None and previous.started == place.started
        self._changes: Changes | None = None
        self.untold = ""
        """Why the summaries did not say what changed, where they might have."""
        self.relations = 0
        """Relation files."""
        self.unchanged = 0
        """Those that were not read, since they are as they were."""
        self.stamps: dict[str, Stamp] = {}
        """Of relation files, for the next time."""
        self._task = f"{address.place}: base backup"

    def take(self, files: Callable[[Verifier | None], Files]) -> tuple[BaseBackup, Files]:
        """Raises SourceError, Interrupted."""
        found = BaseBackup()
        version, checked = int(self._about["server_version"]), self._about["data_checksums"] == "on"
        with connected(self._address, _PATIENT) as connection:
            found.start = self._start(connection, version)
            verifier = Verifier(found.start, int(self._about["segment_size"])) if checked else None
            self._learn(connection, found.start)
            try:
                there = listing(self._place.data)
                found.tablespaces, found.size = there.tablespaces, there.size
                self._context.progress.begin(self._task, found.size)
                taken = files(verifier)
                self._read(there, taken)
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

    def _learn(self, connection: Connection, start: int) -> None:
        """What changed since the last backup."""
        if self._since is None or self._previous is None:
            return
        segment, clock = int(self._about["segment_size"]), self._context.clock
        try:
            if self._since[1] > start:
                raise Untold(
                    f"the last backup ended at {show_lsn(self._since[1])}, and this one begins at {show_lsn(start)}"
                )
            self._changes = changes(
                connection, self._previous.timeline, self._since[0], start, segment=segment, clock=clock
            )
        except Untold as reason:
            self.untold = str(reason)
            self._context.progress.note(f"{self._address.place}: reading every file that was written ({self.untold})")

    @property
    def is_told(self) -> bool:
        """Whether the server's summaries said what changed."""
        return self._changes is not None

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

    def _read(self, there: Listing, files: Files) -> None:
        for oid, place in there.tablespaces.items():
            files.link(oid, place)
        for item in there.items:
            if self._context.cancelled():
                raise Interrupted("the backup was interrupted", hint="Nothing was changed; start it again.")
            if item.kind == "dir":
                files.folder(item.path, item.mode)
            else:
                self._file(item, files)
            self._context.progress.advance(self._task, item.size)
        # Last: a recovery begins with what it says, which must be no older than what was read before.
        self._file(Item(CONTROL, "file", 0o600, 0), files)

    def _file(self, item: Item, files: Files) -> None:
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
                if not files.stores_anew(item.path) and self._is_laid(handle, item.path, mode, stamp, files):
                    return
            files.open(item.path, mode, size)
            _copy(handle, size, files)
        finally:
            os.close(handle)

    def _is_laid(self, handle: int, path: str, mode: int, stamp: Stamp, files: Files) -> bool:
        """Takes the file from the last backup, with what has changed; False where that is not known, or is nearly everything."""
        if self._previous is None:
            return False
        if self._stamped and (known := self._previous.unchanged(path, stamp)) is not None:
            files.known(path, mode, known)
            self.unchanged += 1
            return True
        old, pages = self._previous.pages(path), stamp.size // PAGE
        if self._changes is None or old is None:
            return False
        blocks = self._changes.of(path, pages, len(old))
        if blocks is None:
            return False
        if damaged := [block for block in self._previous.damaged.get(path, ()) if block < pages]:
            blocks = np.union1d(blocks, np.array(damaged, np.uint32))
        if len(blocks):
            files.over(path, mode, stamp.size, old, blocks)
            _copy_only(handle, blocks, files)
        else:
            files.known(path, mode, old.part(0, pages))
            self.unchanged += 1
        return True

    def _log(self, found: BaseBackup, files: Files) -> None:
        """From the segment in which the backup began to the one in which it ended, and the histories of timelines."""
        folder, size = self._place.data / "pg_wal", int(self._about["wal_segment_size"])
        first, last = found.start // size, (found.stop - 1) // size
        names = [segment_name(found.timeline, number * size, size) for number in range(first, last + 1)]
        names += sorted(path.name for path in folder.iterdir() if re.fullmatch(r"[0-9A-F]{8}\.history", path.name))
        for name in names:
            if not self._is_copied(folder / name, None if name.endswith(".history") else size, files):
                raise SourceError(
                    f"{self._address.place} no longer has the log that the backup needs: pg_wal/{name}",
                    hint="Raise wal_keep_size on the server, or leave it a free replication slot; then start the backup again.",
                )
            # A restored server must not archive it a second time.
            files.whole(f"pg_wal/archive_status/{name}.done", 0o600, b"")

    def _is_copied(self, path: Path, size: int | None, files: Files) -> bool:
        """One file of the log, of this size. It must still be there when it was read: the server uses old ones again, by another name."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            about = os.fstat(handle)
            if not about.st_size or size not in (None, about.st_size):
                return False
            files.open(f"pg_wal/{path.name}", 0o600, about.st_size)
            _copy(handle, about.st_size, files)
            return os.path.samestat(about, path.stat())
        except FileNotFoundError:
            return False
        finally:
            os.close(handle)

    def _is_damaged(self, page: tuple[str, int], start: int) -> bool:
        """Whether it still is when it is read again: a page that was being written has a newer position by then."""
        path, block = page
        with contextlib.suppress(FileNotFoundError), (self._place.data / path).open("rb") as file:
            file.seek(block * PAGE)
            return damaged_page(file.read(PAGE), path, block, int(self._about["segment_size"]), start)
        return False


def _copy(handle: int, size: int, files: Files) -> None:
    """All of the file."""
    at = 0
    while at < size:
        room = files.room(size - at)
        if hasattr(os, "posix_fadvise"):  # the next part comes from the disk while this one is taken apart
            os.posix_fadvise(handle, at + len(room), _AHEAD, os.POSIX_FADV_WILLNEED)
        _fill(handle, at, room)
        files.write(room)
        at += len(room)


def _copy_only(handle: int, blocks: Numbers, files: Files) -> None:
    """These blocks of it."""
    done = 0
    while done < len(blocks):
        room = files.room(PAGE * (len(blocks) - done))
        for at, block, end in runs(blocks[done : done + len(room) // PAGE]):
            _fill(handle, PAGE * block, room[PAGE * at :][: PAGE * (end - block)])
        files.write(room)
        done += len(room) // PAGE


def _fill(handle: int, at: int, room: memoryview) -> None:
    """A file is as long as it was when it was looked at: what it gained since, and what it lost, stands in the log."""
    done = 0
    while done < len(room) and (count := os.preadv(handle, [room[done:]], at + done)):
        done += count
    if done < len(room):
        room[done:] = bytes(len(room) - done)


def _unreadable(error: OSError) -> SourceError:
    return SourceError(
        f"{error.filename or 'a file of the cluster'} cannot be read: {error.strerror}",
        hint='Run keepwell as the user of the server, or set read_from = "server" on the source.',
    )
