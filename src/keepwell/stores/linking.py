"""Giving a file a name that nobody has: the one step that makes a local put whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import os


class CannotLink(Exception):
    """The file system offers no way to give a name without overwriting."""


def link_to_free_name(from_folder: int, old: str, to_folder: int, new: str) -> None:
    """Give a file a name that must be free. Raises FileExistsError, OSError, CannotLink."""
    try:
        os.link(old, new, src_dir_fd=from_folder, dst_dir_fd=to_folder, follow_symlinks=False)
    except OSError as error:
        # EPERM is also what a file system without hard links (FAT, exFAT) says.
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}:
            raise
        refused = _rename_to_free_name(from_folder, old, to_folder, new)
        if refused in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
            raise CannotLink(os.strerror(error.errno)) from None
        if refused:
            raise OSError(refused, os.strerror(refused)) from None


def _rename_to_free_name(from_folder: int, old: str, to_folder: int, new: str) -> int:
    """Linux's renameat2 with RENAME_NOREPLACE. The error number, 0 for success."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return errno.ENOSYS
    done: int = libc.renameat2(from_folder, old.encode(), to_folder, new.encode(), 1)
    return 0 if done == 0 else ctypes.get_errno()
