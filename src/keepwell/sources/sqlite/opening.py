"""Opening databases without ever changing them, and saying in plain words why one cannot be read.

The raw file of a source is never opened here except by SQLite itself: closing any other handle of it
would drop the POSIX locks of every connection that this process has to it, and data was lost that way.
"""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from keepwell.core.errors import SourceError
from keepwell.core.streams import Context

T = TypeVar("T")

BUSY_SECONDS = 30.0
"""How long a writer may keep us waiting before the backup gives up."""
_POLL = 0.002
"""Seconds between tries: a busy writer leaves only short gaps (0.05 took 1.2 s to meet one, this takes 0.02 s)."""
_WAITING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_LEFT_OVER = (
    sqlite3.SQLITE_READONLY_ROLLBACK,
    sqlite3.SQLITE_READONLY_RECOVERY,
    sqlite3.SQLITE_READONLY_CANTLOCK,
    sqlite3.SQLITE_READONLY_CANTINIT,
)


def require_database_file(path: Path) -> int:
    """The size of the file in bytes. Raises SourceError where there is nothing that can be a database."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise SourceError(
            f"there is no database at {path}",
            hint="Check `path` of this source in the policy (relative paths start at the policy file), "
            "and that the disk is mounted.",
        ) from None
    except OSError as error:
        raise SourceError(
            f"cannot reach {path}: {error.strerror}", hint="Check the rights on the file and its folders."
        ) from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file"
        raise SourceError(
            f"{path} is {kind}, not a SQLite database",
            hint='Name the database file itself; for a folder use a source of type "files".',
        )
    if found.st_size == 0:
        # SQLite would accept it as a database without tables; a backup of nothing must not count as one.
        raise SourceError(
            f"{path} is empty (0 bytes): there is no database in it",
            hint="An application may have made it by opening a wrong path. Check `path` in the policy.",
        )
    return found.st_size


@contextlib.contextmanager
def reading(path: Path, *, private: bool = False) -> Iterator[sqlite3.Connection]:
    """A read-only connection; SQLite's errors leave the block as SourceError.

    `private` says that nobody else has the file open: then no locks, no -wal and no -shm files are made.
    Text comes as `str`; set `text_factory` for other things.
    """
    uri = path.absolute().as_uri() + ("?mode=ro&immutable=1" if private else "?mode=ro")
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise explain(error, path) from error


def patiently(call: Callable[[], T], context: Context) -> T:
    """Call again while a writer holds the lock, for `BUSY_SECONDS` at the most; then its sqlite3.Error."""
    deadline = context.clock.monotonic() + BUSY_SECONDS
    while True:
        try:
            return call()
        except sqlite3.OperationalError as error:
            if not is_busy(error) or context.clock.monotonic() >= deadline:
                raise
            context.clock.sleep(_POLL)


def wait_turn(status: int, deadline: float, context: Context) -> None:
    """For a step of an online backup: wait a moment where it met a lock. Raises BlockingIOError after `deadline`."""
    if status in _WAITING:
        if context.clock.monotonic() >= deadline:
            raise BlockingIOError
        context.clock.sleep(_POLL)


def is_busy(error: sqlite3.Error) -> bool:
    return _code(error) & 0xFF in _WAITING


def still_busy(path: Path) -> SourceError:
    return SourceError(
        f"{path} stayed locked by another program for {BUSY_SECONDS:.0f} seconds",
        hint="A long write transaction is open. Back up at a quieter time, or switch the database to WAL "
        "(PRAGMA journal_mode=WAL), where readers never wait for writers.",
    )


def explain(error: sqlite3.Error, path: Path) -> SourceError:
    """The SourceError for what SQLite said about the database at `path`."""
    code = _code(error)
    kind = code & 0xFF
    if kind in _WAITING:
        return still_busy(path)
    if code in _LEFT_OVER:
        return SourceError(
            f"{path} was left in the middle of a write, and mending it would mean writing to it",
            hint="Open and close it once with its application (or `sqlite3 FILE 'PRAGMA schema_version'`) as a user "
            "who may write to it: SQLite then recovers it from its journal.",
        )
    if kind in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY):
        return SourceError(
            f"cannot open {path} for reading: {error}",
            hint="The user who takes the backup needs to read the file; a database in WAL mode also needs "
            "its -wal and -shm files, or the right to make them in the folder.",
        )
    if kind == sqlite3.SQLITE_NOTADB:
        return SourceError(
            f"{path} is not a SQLite database, or it is encrypted",
            hint='Check `path`. An encrypted database (SQLCipher, SEE) can be protected as a source of type "files" '
            "while its application is stopped.",
        )
    if kind == sqlite3.SQLITE_CORRUPT:
        return SourceError(
            f"{path} is damaged: {error}",
            hint="Do not write to it. Restore the last proven backup, or try `sqlite3 FILE .recover`.",
        )
    if kind == sqlite3.SQLITE_FULL:
        return SourceError(f"no space left while copying {path}", hint="Free space where temporary files are kept.")
    return SourceError(f"SQLite cannot read {path}: {error}", hint="See the message of SQLite itself.")


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", None) or 0
