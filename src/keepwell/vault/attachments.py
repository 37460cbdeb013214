"""Portable copies beside a backup: plain files that need no keepwell (docs/format.md, section 7)."""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import dataclass
from pathlib import Path

from keepwell.stores.base import Store

PART_SIZE = 4 << 30
"""The largest object: what every store takes in one put (S3 and Azure take up to 5 GB)."""


@dataclass(frozen=True)
class Attachment:
    source: str
    name: str
    """`database.sql.gz`"""
    path: Path
    size: int
    sha256: str

    @property
    def parts(self) -> int:
        return max(1, -(-self.size // PART_SIZE))

    def names(self) -> list[str]:
        """The object, or where it is too large for one: `database.sql.gz.part-001` and so on, to be joined by `cat`."""
        if self.parts == 1:
            return [self.name]
        return [f"{self.name}.part-{number:03}" for number in range(1, self.parts + 1)]


def read_attachment(source: str, name: str, path: Path) -> Attachment:
    with path.open("rb") as file:
        return Attachment(source, name, path, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def put_attachment(store: Store, folder: str, attachment: Attachment) -> list[str]:
    """Stores the copy and the line that `sha256sum -c` reads; the names of the objects. Raises the StoreError family."""
    made = []
    with attachment.path.open("rb") as file:
        for number, name in enumerate(attachment.names()):
            start = number * PART_SIZE
            length = min(PART_SIZE, attachment.size - start)
            # Mapped, so that a copy of gigabytes needs no memory of its own.
            with _Mapped(file.fileno(), start, length) as data:
                store.put(folder + name, data)
            made.append(folder + name)
    line = f"{attachment.sha256}  {attachment.name}\n".encode()
    store.put(f"{folder}{attachment.name}.sha256", line)
    return [*made, f"{folder}{attachment.name}.sha256"]


class _Mapped:
    """Bytes of an open file as a memoryview for one `with` block."""

    def __init__(self, fd: int, start: int, length: int) -> None:
        self._map = mmap.mmap(fd, length, access=mmap.ACCESS_READ, offset=start) if length else None
        self._view = memoryview(self._map or b"")

    def __enter__(self) -> memoryview:
        return self._view

    def __exit__(self, *_: object) -> None:
        self._view.release()
        if self._map is not None:
            self._map.close()
