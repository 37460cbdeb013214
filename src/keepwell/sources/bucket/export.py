"""A copy that needs no keepwell: `tar xzf objects.tar.gz`."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import tempfile
from pathlib import Path

from keepwell.core.errors import Interrupted
from keepwell.core.newfile import new_file
from keepwell.core.streams import Context, Facts, Streams
from keepwell.sources.base import Exported
from keepwell.sources.bucket.entries import read_objects
from keepwell.sources.bucket.folder import NAMES, apart, is_taken, note
from keepwell.sources.files.export import Content, add_member
from keepwell.sources.files.selection import Reader, Selection

NAME = "objects.tar.gz"
_LONGEST = 255
_SPOOL = 16 << 20


def export(facts: Facts, streams: Streams, folder: Path, context: Context) -> Exported:
    """Write `objects.tar.gz` into the folder; the same bytes every time for the same backup.

    Each object is a file of its name, and `keepwell-objects.jsonl` at the end says their metadata, and which file those are
    that cannot have their own names. Every object is compared with its digest. Raises TargetNotEmpty, Damaged, SourceError.
    """
    path = folder / NAME
    task = f"{facts['root']}: export"
    folders: set[str] = set()
    for entry in read_objects(streams):
        parts = entry.name.split("/")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    extents, size = Selection(()).survey(entry.as_file() for entry in read_objects(streams))
    context.progress.begin(task, size)
    reader = Reader(streams, extents)

    def between() -> None:
        if context.cancelled():
            raise Interrupted("the export was interrupted", hint="Nothing was written; start it again.")

    with (
        new_file(path) as file,
        tempfile.SpooledTemporaryFile(_SPOOL) as names,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as archive,
    ):
        for entry in read_objects(streams):
            between()
            if entry.folder:
                names.write(note(entry, None))
                continue
            plain = entry.as_file()
            content = Content(plain, reader.read(plain, between))
            odd = apart(entry.name) if _cannot_be(entry.name, folders) else None
            if odd:
                plain.path = odd.encode()
            add_member(archive, plain, content)
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile remembers each one: memory without end
            content.verify()
            names.write(note(entry, odd))
            context.progress.advance(task, entry.size)
        last = tarfile.TarInfo(NAMES)
        last.size, last.mode = names.tell(), 0o644
        names.seek(0)
        archive.addfile(last, names)
    context.progress.end(task)
    with path.open("rb") as made:
        sha256 = hashlib.file_digest(made, "sha256").hexdigest()
    return Exported(path, path.stat().st_size, sha256, facts)


def _cannot_be(name: str, folders: set[str]) -> bool:
    """The same whatever the file system: a name that others have as their folder, or of a part that is too long."""
    return name in folders or is_taken(name) or any(len(part.encode()) > _LONGEST for part in name.split("/"))
