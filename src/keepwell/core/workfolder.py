"""Private folders for work in progress: copies, sandboxes, lists for pg_restore. What `kill -9` leaves is cleared later.

A lock file in the folder is held (flock) for as long as the process lives, whatever ends it. A folder of this user
whose lock is free belongs to a dead process; the next one that makes a work folder beside it clears it away. Numbers
of processes and clocks play no part, so neither can be mistaken. Folders without a lock file are never touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

PREFIX = "keepwell-"
LOCK = ".keepwell-work"
_CLEARED: set[str] = set()
_CLEARING = threading.Lock()


class WorkFolder:
    """A new folder `keepwell-<kind>-<random>` that only this user can enter. Raises OSError.

    As a context it gives its path and removes it at the end.
    """

    def __init__(self, kind: str, parent: Path | None = None) -> None:
        above = str(parent) if parent is not None else tempfile.gettempdir()
        _clear_once(above)
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-", dir=above))
        try:
            self._lock = _lock(self.path)
        except OSError:
            self.path.rmdir()
            raise

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self, *, quietly: bool = False) -> None:
        """With all that is in it, also where a folder in it is write-protected. Raises OSError, unless `quietly`."""
        try:
            with contextlib.suppress(OSError) if quietly else contextlib.nullcontext():
                _remove(self.path)
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None


def clear_the_dead(parent: Path) -> list[Path]:
    """Removes the work folders in `parent` that processes of this user left when they were killed; says which."""
    return [path for path in _left_behind(parent) if _clear(path)]


def _clear_once(parent: str) -> None:
    """Once a process for each folder: it is for what earlier ones left."""
    with _CLEARING:
        if parent in _CLEARED:
            return
        _CLEARED.add(parent)
    clear_the_dead(Path(parent))


def _left_behind(parent: Path) -> Iterator[Path]:
    try:
        with os.scandir(parent) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(PREFIX)]
    except OSError:
        return  # what is wrong with it shows when a folder is made there
    for name in names:
        with contextlib.suppress(OSError):  # gone meanwhile
            found = (parent / name).lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                yield parent / name


def _clear(path: Path) -> bool:
    try:
        handle = os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # not a work folder, or one that is being made or removed
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
    except OSError:  # its process lives; or a part of it is not ours to remove, and stays
        return False
    finally:
        os.close(handle)
    return True


def _lock(folder: Path) -> int | None:
    """The lock file, held before it has its name, so that nobody ever finds it free while we live.

    None where the file system knows no locks: then the folder has no lock file, and nobody but us removes it.
    """
    fresh = folder / f"{LOCK}.new"
    handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        fresh.unlink()
        return None
    fresh.rename(folder / LOCK)
    return handle


def _remove(folder: Path) -> None:
    """The lock file last, so that a removal that is killed is taken up by the next process."""
    for parent, folders, _ in os.walk(folder):
        for name in folders:
            inner = Path(parent, name)
            if not inner.is_symlink():
                with contextlib.suppress(OSError):  # of another user (a server's): who may remove it need not change it
                    inner.chmod(0o700)
    with os.scandir(folder) as entries:
        inside = [(Path(entry.path), entry.is_dir(follow_symlinks=False)) for entry in entries if entry.name != LOCK]
    for path, is_folder in inside:
        if is_folder:
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (folder / LOCK).unlink(missing_ok=True)
    folder.rmdir()
