"""What files were like at the last backup, so that unchanged ones are not read again."""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from keepwell.sources.remembered import Remembered

RACY_SECONDS = 2
"""A file changed so shortly before the backup may change again within the same tick of its clock."""


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
    """As `Remembered`: what the last backup knew, and what this one hands on."""

    def __init__(self, folder: Path | None, root: Path) -> None:
        name = f"files-{blake3(os.fsencode(root.resolve())).hexdigest()[:32]}.sqlite"
        self._rows = Remembered(folder and folder / name)

    def find(self, path: bytes) -> Known | None:
        row = self._rows.find(path)
        if row is None:
            return None
        size, mtime, ctime, inode, digest, ids, xattrs = json.loads(row)
        pairs = tuple((b64decode(name), b64decode(value)) for name, value in xattrs)
        return Known(size, mtime, ctime, inode, digest, b64decode(ids), pairs)

    def remember(self, path: bytes, known: Known, started_ns: int) -> None:
        """Keep it for next time, unless it could have changed since without showing."""
        newest = max(known.mtime_ns, known.ctime_ns)
        if not known.ids or newest >= started_ns - RACY_SECONDS * 10**9:
            return
        pairs = [[b64encode(part).decode() for part in pair] for pair in known.xattrs]
        ids = b64encode(known.ids).decode()
        fields = [known.size, known.mtime_ns, known.ctime_ns, known.inode, known.digest, ids, pairs]
        self._rows.remember(path, json.dumps(fields, separators=(",", ":")).encode())

    def close(self, *, keep: bool) -> None:
        self._rows.close(keep=keep)
