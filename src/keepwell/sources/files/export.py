"""A copy that needs no keepwell: `tar xzf files.tar.gz`."""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from keepwell.core.errors import Damaged, Interrupted
from keepwell.core.newfile import new_file
from keepwell.core.streams import Context, Facts, Streams
from keepwell.sources.base import Exported
from keepwell.sources.files.entries import FILE, FOLDER, HARDLINK, ROOT, SYMLINK, Entry, read_tree, show
from keepwell.sources.files.selection import Reader, Selection

NAME = "files.tar.gz"
_TYPES = {FILE: tarfile.REGTYPE, FOLDER: tarfile.DIRTYPE, SYMLINK: tarfile.SYMTYPE, HARDLINK: tarfile.LNKTYPE}


def export(facts: Facts, streams: Streams, folder: Path, context: Context) -> Exported:
    """Write `files.tar.gz` into the folder; the same bytes every time for the same backup.

    PAX format: names of any length and any bytes, times to the nanosecond, extended attributes
    (`tar --xattrs`). Every file is compared with its digest. Raises TargetNotEmpty, Damaged, SourceError.
    """
    path = folder / NAME
    task = f"{facts['root']}: export"
    extents, size = Selection(()).survey(read_tree(streams))
    context.progress.begin(task, size)
    reader = Reader(streams, extents)

    def between() -> None:
        if context.cancelled():
            raise Interrupted("the export was interrupted", hint="Nothing was written; start it again.")

    with (
        new_file(path) as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive,
    ):
        for entry in read_tree(streams):
            between()
            content = _Content(entry, reader.read(entry, between)) if entry.type == FILE else None
            archive.addfile(_member(entry), content)
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile remembers each one: memory without end
            if content is not None:
                content.verify()
                context.progress.advance(task, entry.size)
    context.progress.end(task)
    with path.open("rb") as made:
        sha256 = hashlib.file_digest(made, "sha256").hexdigest()
    return Exported(path, path.stat().st_size, sha256, facts)


def _member(entry: Entry) -> tarfile.TarInfo:
    name = "." if entry.path == ROOT else os.fsdecode(entry.path)
    member = tarfile.TarInfo(name)
    member.type = _TYPES[entry.type]
    member.mode = entry.mode
    member.uid, member.gid = entry.uid, entry.gid
    member.uname, member.gname = entry.user or "", entry.group or ""
    member.size = entry.size if entry.type == FILE else 0
    member.linkname = os.fsdecode(entry.target)
    seconds, fraction = divmod(entry.mtime_ns, 10**9)
    member.mtime = seconds
    headers = {}
    if fraction:
        headers["mtime"] = f"{seconds}.{fraction:09d}" if seconds >= 0 else f"{entry.mtime_ns / 10**9:.9f}"
    for key, value in entry.xattrs:
        if key.startswith(b"user."):
            headers[f"SCHILY.xattr.{os.fsdecode(key)}"] = value.decode("utf-8", "surrogateescape")
    member.pax_headers = headers
    return member


class _Content:
    """The content of one file, for tarfile to read."""

    def __init__(self, entry: Entry, blocks: Iterator[memoryview]) -> None:
        self._entry = entry
        self._blocks = blocks
        self._rest = memoryview(b"")
        self._hasher = blake3()

    def read(self, size: int = -1) -> bytes:
        """As many bytes as asked for, as tarfile takes fewer for the end."""
        found = bytearray()
        while size < 0 or len(found) < size:
            if not self._rest:
                block = next(self._blocks, None)
                if block is None:
                    break
                self._rest = block
            part = self._rest if size < 0 else self._rest[: size - len(found)]
            found += part
            self._rest = self._rest[len(part) :]
        self._hasher.update(bytes(found))
        return bytes(found)

    def verify(self) -> None:
        if self._hasher.hexdigest() != self._entry.digest:
            raise Damaged(
                f"{show(self._entry.path)} came out of the vault with other bytes than went in",
                hint="Nothing was written. Run `keepwell check`, and export an older backup or a copy.",
            )
