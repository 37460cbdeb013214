"""What a source remembers between backups, by name, so that what is unchanged is not read again.

It may be lost or damaged at any time: every row carries a checksum, and what does not fit is not used.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from pathlib import Path

from blake3 import blake3

_BATCH = 1000
_TABLE = "CREATE TABLE files(path BLOB PRIMARY KEY, known BLOB, checksum BLOB) WITHOUT ROWID"


class Remembered:
    """Reads the last backup's file and writes a new one, which takes its place when `close` is told to keep it."""

    def __init__(self, path: Path | None) -> None:
        """`path` None: nothing is remembered."""
        self._path = path
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

    def find(self, path: bytes) -> bytes | None:
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
        known: bytes = row[0]
        return known

    def remember(self, path: bytes, known: bytes) -> None:
        """For next time."""
        if self._new is None:
            return
        self._pending.append((path, known, _checksum(path, known)))
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
