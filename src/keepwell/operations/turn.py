"""One backup of an environment at a time on one machine. The vault would stand two; the source need not."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from keepwell.core.errors import Busy


@contextlib.contextmanager
def turn(folder: Path | None, environment: str) -> Iterator[None]:
    """Holds `backup-<environment>.lock` in the folder. The kernel lets go of it when this process ends, however it does.

    Raises Busy where another process holds it. Without a folder, or where it knows no locks, nothing is held: the lock
    is a kindness to the source, not what keeps the vault whole.
    """
    handle = _opened(folder, environment)
    if handle is None:
        yield
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(handle, 20, 0).decode("ascii", "replace").strip()
            raise Busy(
                f"another backup of {environment} is running here" + (f" (process {pid})" if pid else ""),
                hint="Wait for it to end. Backups of other environments, and from other machines, are not held up.",
            ) from None
        except OSError:  # a network share without locks
            yield
            return
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def _opened(folder: Path | None, environment: str) -> int | None:
    if folder is None:
        return None
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(folder / f"backup-{environment}.lock", flags, 0o600)
    except OSError:
        return None
