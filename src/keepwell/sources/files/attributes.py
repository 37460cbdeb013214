"""Owners by name, and extended attributes: the user's own, access control lists, capabilities."""

from __future__ import annotations

import contextlib
import errno
import functools
import grp
import os
import pwd
import tempfile
from pathlib import Path

_KEPT = ("user.", "system.posix_acl_", "security.capability")


@functools.cache
def user_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


@functools.cache
def group_name(gid: int) -> str | None:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return None


def user_id(name: str | None, uid: int) -> int:
    """The number of that name here; the number from the backup where there is no such user."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name).pw_uid if name else uid
    return uid


def group_id(name: str | None, gid: int) -> int:
    with contextlib.suppress(KeyError):
        return grp.getgrnam(name).gr_gid if name else gid
    return gid


def read_xattrs(place: int | str) -> tuple[tuple[bytes, bytes], ...]:
    """Pairs of name and value, sorted; nothing where the system or the file system has none. Raises OSError."""
    if not hasattr(os, "listxattr"):
        return ()
    try:
        names = [name for name in os.listxattr(place) if name.startswith(_KEPT)]
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return ()
        raise
    found = []
    for name in sorted(names, key=os.fsencode):
        try:
            found.append((os.fsencode(name), os.getxattr(place, name)))
        except OSError as error:
            if error.errno != errno.ENODATA:  # removed since it was listed
                raise
    return tuple(found)


def holds_xattrs(folder: Path) -> bool:
    """Whether files there can have attributes, tried with a file that is removed again."""
    if not hasattr(os, "setxattr"):
        return False
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.setxattr(file.fileno(), "user.keepwell", b"1")
    except OSError:
        return False
    return True
