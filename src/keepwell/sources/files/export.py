"""A copy that needs no keepwell: `tar xzf files.tar.gz`."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from keepwell.core.errors import Damaged, Interrupted
from keepwell.core.newfile import new_file
from keepwell.core.streams import Context, Facts, Streams
from keepwell.sources.base import Exported
from keepwell.sources.files.entries import FILE, FOLDER, HARDLINK, SYMLINK, Entry, read_tree, show
from keepwell.sources.files.selection import Reader, Selection

NAME = "files.tar.gz"
_NAME_FIELD = 100
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
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as archive,
    ):
        for entry in read_tree(streams):
            between()
            content = Content(entry, reader.read(entry, between)) if entry.type == FILE else None
            add_member(archive, entry, content)
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile remembers each one: memory without end
            if content is not None:
                content.verify()
                context.progress.advance(task, entry.size)
    context.progress.end(task)
    with path.open("rb") as made:
        sha256 = hashlib.file_digest(made, "sha256").hexdigest()
    return Exported(path, path.stat().st_size, sha256, facts)


def add_member(archive: tarfile.TarFile, entry: Entry, content: Content | None) -> None:
    """A PAX header where one is needed, then the member.

    tarfile would write such headers itself, but marks those with bytes that are not UTF-8 in a way that
    GNU tar complains about; a raw name in the member's own header is what every tar takes.
    """
    if records := _records(entry):
        header = tarfile.TarInfo("././@PaxHeader")
        header.type, header.size = tarfile.XHDTYPE, len(records)
        archive.addfile(header, io.BytesIO(records))
    member = tarfile.TarInfo(_short(entry.path))
    member.type = _TYPES[entry.type]
    member.mode = entry.mode
    member.uid, member.gid = entry.uid, entry.gid
    member.uname, member.gname = entry.user or "", entry.group or ""
    member.size = entry.size if entry.type == FILE else 0
    member.linkname = _short(entry.target)
    member.mtime = entry.mtime_ns // 10**9
    archive.addfile(member, content)


def _records(entry: Entry) -> bytes:
    fields: list[tuple[bytes, bytes]] = []
    for keyword, path in ((b"path", entry.path), (b"linkpath", entry.target)):
        if len(path) > _NAME_FIELD or (not path.isascii() and _is_utf8(path)):
            fields.append((keyword, path))
    if entry.mtime_ns % 10**9:
        sign, (seconds, fraction) = "-" if entry.mtime_ns < 0 else "", divmod(abs(entry.mtime_ns), 10**9)
        fields.append((b"mtime", f"{sign}{seconds}.{fraction:09d}".encode()))
    fields += [(b"SCHILY.xattr." + name, value) for name, value in entry.xattrs if name.startswith(b"user.")]
    return b"".join(_record(keyword, value) for keyword, value in fields)


def _record(keyword: bytes, value: bytes) -> bytes:
    """`30 mtime=1350244992.023960108` and a line end: the number is the length of all, itself included."""
    rest = len(keyword) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, keyword, value)


def _short(path: bytes) -> str:
    """The name field of the member: the record `path` counts where it does not fit."""
    return os.fsdecode(path) if len(path) <= _NAME_FIELD else "././@LongName"


def _is_utf8(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True


class Content:
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
