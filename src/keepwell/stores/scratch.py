"""Where a local store writes an object before it gets its name: `.tmp/<random>/`, one folder a process.

A lock file beside the folder is held (flock) for as long as the process lives, whatever ends it, in whatever
container it runs. A folder whose lock is free belongs to the dead, and the next writer clears it away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets

FOLDER = ".tmp"
_LOCK = ".lock"
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Scratch:
    """Temporary files of one process in the store whose root is open as `root`. Raises OSError.

    `fd` is the folder to create files in.
    """

    def __init__(self, root: int) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(FOLDER, 0o700, dir_fd=root)
        self._top = os.open(FOLDER, _FOLDER_FLAGS, dir_fd=root)
        try:
            _clear_the_dead(self._top)
            self._name, self._lock = _claim(self._top)
            try:
                os.mkdir(self._name, 0o700, dir_fd=self._top)
                self.fd = os.open(self._name, _FOLDER_FLAGS, dir_fd=self._top)
            except OSError:
                os.close(self._lock)
                raise
        except OSError:
            os.close(self._top)
            raise

    def create(self) -> tuple[int, str]:
        """A new empty file, open for writing, and its name in the folder."""
        name = secrets.token_hex(8)
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.fd), name

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):  # what stays is cleared by the next process
            os.unlink(name, dir_fd=self.fd)

    def close(self) -> None:
        os.close(self.fd)
        with contextlib.suppress(OSError):  # what stays is cleared by the next process
            _clear(self._top, self._name)
        os.close(self._lock)
        os.close(self._top)


def _claim(top: int) -> tuple[str, int]:
    """A fresh name and its lock file, held. Another process may clear the file before the lock is on it."""
    while True:
        name = secrets.token_hex(8)
        lock = os.open(name + _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=top)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another process took it for a dead one's, and is about to clear it
            os.close(lock)
            continue
        except OSError:
            pass  # some network file systems know no locks: then nobody can take this one, and nothing is ever cleared
        if os.fstat(lock).st_nlink:
            return name, lock
        os.close(lock)


def _clear_the_dead(top: int) -> None:
    for entry in os.listdir(top):
        if not entry.endswith(_LOCK):
            continue
        with contextlib.suppress(OSError):  # cleared by another process meanwhile, or not ours to clear
            lock = os.open(entry, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _clear(top, entry.removesuffix(_LOCK))
            finally:
                os.close(lock)


def _clear(top: int, name: str) -> None:
    """Remove the folder `name` and then its lock file; whatever cannot be removed stays for another time."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        folder = os.open(name, _FOLDER_FLAGS, dir_fd=top)
        try:
            for entry in os.listdir(folder):  # noqa: PTH208 - pathlib knows no open folders
                with contextlib.suppress(OSError):
                    os.unlink(entry, dir_fd=folder)
        finally:
            os.close(folder)
    with contextlib.suppress(FileNotFoundError):
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=top)
        os.unlink(name + _LOCK, dir_fd=top)
