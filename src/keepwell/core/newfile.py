"""Putting a finished file in its place: whole or not at all, and never over something that is there."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from keepwell.core.errors import SourceError, TargetNotEmpty

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EINVAL}
"""What file systems answer that know no hard links (FAT, some network shares)."""


def refuse_existing(path: Path) -> None:
    """Raises TargetNotEmpty where anything, even a dangling link, has that name."""
    if os.path.lexists(path):
        raise TargetNotEmpty(
            f"{path} exists already",
            hint="Nothing was overwritten. Give a path that does not exist, or move this one away first.",
        )


def beside(path: Path) -> Path:
    """A free name in the same folder, for the unfinished file; the folder is made where it is missing.

    Raises SourceError where the folder cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(
            f"cannot make the folder {path.parent}: {error.strerror}", hint="Check the path and your rights."
        ) from error
    return path.parent / f".keepwell-{secrets.token_hex(8)}.tmp"


def publish(finished: Path, path: Path) -> None:
    """Give the finished file its name, durably; `finished` is gone afterwards.

    Raises TargetNotEmpty where the name is taken meanwhile, SourceError where the folder refuses.
    """
    try:
        _sync(finished)
        try:
            os.link(finished, path, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # Reserving the name first keeps the promise: what is replaced is our own empty file.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            finished.replace(path)
        else:
            finished.unlink()
        _sync(path.parent)
    except FileExistsError:
        refuse_existing(path)
        raise
    except OSError as error:
        raise SourceError(
            f"cannot write {path}: {error.strerror}", hint="Check the rights and the free space there."
        ) from error


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that gets its name only when the block ends without an error.

    Raises TargetNotEmpty where the name is taken, SourceError where it cannot be written.
    """
    refuse_existing(path)
    unfinished = beside(path)
    try:
        try:
            with unfinished.open("xb") as file:
                yield file
        except OSError as error:
            raise SourceError(
                f"cannot write {path}: {error.strerror or error}", hint="Check the rights and the free space there."
            ) from error
        publish(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
