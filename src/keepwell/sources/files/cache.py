"""What files were like at the last backup, so that unchanged ones are not read again.

It may be lost or damaged at any time: every row carries a checksum, and what does not fit is not used.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

RACY_SECONDS = 2
"""A file changed so shortly before the backup may change again within the same tick of its clock."""
_BATCH = 1000
_TABLE = "CREATE TABLE files(path BLOB PRIMARY KEY, known BLOB, checksum BLOB) WITHOUT ROWID"


@dataclass(slots=True)
class Known:
    """A file as it was read; `fits` says whether it still is."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    digest: str
    ids: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]

    def fits(self, now: os.stat_result) -> bool:
        return (self.size, self.mtime_ns, self.ctime_ns, self.inode) == (
            now.st_size,
            now.st_mtime_ns,
            now.st_ctime_ns,
            now.st_ino,
        )


class Cache:
    """Reads the last backup's file and writes a new one, which takes its place when `close` is told to keep it."""

    def __init__(self, folder: Path | None, root: Path) -> None:
        self._path = folder and folder / f"files-{blake3(os.fsencode(root.resolve())).hexdigest()[:32]}.sqlite"
        self._old: sqlite3.Connection | None = None
        self._new: sqlite3.Connection | None = None
        self._pending: list[tuple[bytes, bytes, bytes]] = []
        if self._path is None:
            return
        self._fresh = self._path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fresh.unlink(missing_ok=True)
            if self._path.exists():
                self._old = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)
            self._new = sqlite3.connect(self._fresh, isolation_level=None)
            self._new.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {_TABLE}; BEGIN;")
        except (sqlite3.Error, OSError):
            self._give_up()

    def find(self, path: bytes) -> Known | None:
        if self._old is None:
            return None
        try:
            row = self._old.execute("SELECT known, checksum FROM files WHERE path = ?", (path,)).fetchone()
        except sqlite3.Error:
            self._old.close()
            self._old = None
            return None
        if row is None or row[1] != _checksum(path, row[0]):
            return None
        size, mtime, ctime, inode, digest, ids, xattrs = json.loads(row[0])
        pairs = tuple((b64decode(name), b64decode(value)) for name, value in xattrs)
        return Known(size, mtime, ctime, inode, digest, b64decode(ids), pairs)

    def remember(self, path: bytes, known: Known, started_ns: int) -> None:
        """Keep it for next time, unless it could have changed since without showing."""
        newest = max(known.mtime_ns, known.ctime_ns)
        if self._new is None or not known.ids or newest >= started_ns - RACY_SECONDS * 10**9:
            return
        pairs = [[b64encode(part).decode() for part in pair] for pair in known.xattrs]
        ids = b64encode(known.ids).decode()
        fields = [known.size, known.mtime_ns, known.ctime_ns, known.inode, known.digest, ids, pairs]
        text = json.dumps(fields, separators=(",", ":")).encode()
        self._pending.append((path, text, _checksum(path, text)))
        if len(self._pending) >= _BATCH:
            self._write()

    def close(self, *, keep: bool) -> None:
        self._write()
        if keep and self._path and self._new is not None:
            try:
                self._new.execute("COMMIT")
                self._new.close()
                self._fresh.replace(self._path)
            except (sqlite3.Error, OSError):
                self._give_up()
        self._give_up()

    def _write(self) -> None:
        if self._new is not None and self._pending:
            try:
                self._new.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", self._pending)
            except sqlite3.Error:  # no space for a cache is no reason to lose a backup
                self._new.close()
                self._new = None
        self._pending.clear()

    def _give_up(self) -> None:
        for connection in (self._old, self._new):
            if connection is not None:
                connection.close()
        self._old = self._new = None
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._fresh.unlink(missing_ok=True)


def _checksum(path: bytes, known: object) -> bytes:
    if not isinstance(known, bytes):
        return b"no"
    return blake3(len(path).to_bytes(8, "little") + path + known).digest(16)
