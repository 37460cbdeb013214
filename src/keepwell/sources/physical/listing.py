"""What of a data directory belongs into a base backup, where the files are read without the server's help.

Source: PostgreSQL's `backup/basebackup.c` (`sendDir`, the lists of what it leaves out), 14 to 18.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_EMPTY = frozenset(
    ("pg_stat_tmp", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans")
)
"""Directories that a backup has, with nothing in them."""
_LEFT_OUT = frozenset(
    (
        *("postgresql.auto.conf.tmp", "current_logfiles.tmp", "backup_label", "tablespace_map", "backup_manifest"),
        *("postmaster.pid", "postmaster.opts", ".DS_Store"),
    )
)
_RELCACHE, _TEMPORARY = "pg_internal.init", "pgsql_tmp"
_OF_SESSION = re.compile(r"t\d+_\d+(?:_(?:fsm|vm|init))?(?:\.\d+)?", re.ASCII)
_FORK = re.compile(r"(\d+)(?:_(?:fsm|vm|init))?(?:\.\d+)?", re.ASCII)
_DATABASE = re.compile(r"(?:base|pg_tblspc/\d+/PG_[^/]+)/\d+", re.ASCII)
CONTROL = "global/pg_control"


@dataclass(frozen=True, slots=True)
class Item:
    path: str
    """Relative to the data directory; what lies in a tablespace below `pg_tblspc/<oid>/`."""
    kind: str
    """`file` or `dir`."""
    mode: int
    size: int


@dataclass
class Listing:
    items: list[Item]
    tablespaces: dict[str, str]
    """Place by oid."""
    odd: list[str]
    """What is neither file nor directory, and stays out."""

    @property
    def size(self) -> int:
        return sum(item.size for item in self.items)


def listing(data: Path) -> Listing:
    """Everything but the log, `global/pg_control` (which has to be read last), and what a server makes anew. What goes away
    meanwhile is left out: the log says what became of it. Raises OSError.
    """
    found = Listing([], {}, [])
    for link in sorted((data / "pg_tblspc").iterdir()):
        if link.name.isdecimal() and link.is_symlink():
            found.tablespaces[link.name] = str(link.readlink())
    found.items += _walk(data, "", found.odd)
    for oid in found.tablespaces:
        inside = sorted(path for path in (data / "pg_tblspc" / oid).iterdir() if path.name.startswith("PG_"))
        # A directory of another version is another cluster's, on its way through pg_upgrade.
        version = (data / "PG_VERSION").read_text().strip()
        for folder in (path for path in inside if path.name.startswith(f"PG_{version}_")):
            name = f"pg_tblspc/{oid}/{folder.name}"
            found.items.append(Item(name, "dir", stat.S_IMODE(folder.stat().st_mode), 0))
            found.items += _walk(data, name, found.odd)
    return found


def _walk(data: Path, folder: str, odd: list[str]) -> Iterator[Item]:
    try:
        with os.scandir(data / folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:  # a database that was dropped
        return
    names = {entry.name for entry in found}
    for entry in found:
        path = f"{folder}/{entry.name}" if folder else entry.name
        if path == CONTROL or _left_out(folder, entry.name, names):
            continue
        try:
            about = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        mode = stat.S_IMODE(about.st_mode)
        if path == "pg_wal":  # also where it is a link
            yield Item(path, "dir", 0o700, 0)
            yield Item("pg_wal/archive_status", "dir", 0o700, 0)
        elif stat.S_ISDIR(about.st_mode):
            yield Item(path, "dir", mode, 0)
            if folder or entry.name not in _EMPTY:
                yield from _walk(data, path, odd)
        elif stat.S_ISREG(about.st_mode):
            yield Item(path, "file", mode, about.st_size)
        elif folder != "pg_tblspc":
            odd.append(path)


def _left_out(folder: str, name: str, beside: set[str]) -> bool:
    if name in _LEFT_OUT or name.startswith((_RELCACHE, _TEMPORARY)):
        return True
    if not _DATABASE.fullmatch(folder):
        return False
    if _OF_SESSION.fullmatch(name):
        return True
    fork = _FORK.fullmatch(name)
    # Unlogged: the server makes it anew from its init fork.
    return fork is not None and f"{fork[1]}_init" in beside and not re.fullmatch(rf"{fork[1]}_init(?:\.\d+)?", name)
