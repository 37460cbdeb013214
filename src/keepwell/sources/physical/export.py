"""A copy that needs no keepwell: `tar xpzf cluster.tar.gz`, then start PostgreSQL in it."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from keepwell.core.clock import from_iso
from keepwell.core.errors import Interrupted
from keepwell.core.newfile import new_file
from keepwell.core.streams import Context, Facts, Streams
from keepwell.sources.base import Exported
from keepwell.sources.physical import recovery
from keepwell.sources.physical.entries import Entry
from keepwell.sources.physical.layout import ALWAYS, Layout, read_layout

NAME = "cluster.tar.gz"
_LEFT_OUT = (recovery.STANDBY, recovery.SIGNAL)


def export(facts: Facts, streams: Streams, folder: Path, context: Context) -> Exported:
    """Write `cluster.tar.gz` into the folder: a data directory that a server of the same major version starts in and that is
    then as it was at the end of the backup, on a new timeline. Tablespaces lie inside of it, as `pg_tblspc/<oid>`.

    The same bytes every time for the same backup. Raises TargetNotEmpty, Damaged, SourceError, Interrupted.
    """
    path = folder / NAME
    layout = read_layout(streams)
    task = f"{facts.get('database') or 'cluster'}: export"
    time = int(from_iso(facts["wal"]["time"]).timestamp())
    context.progress.begin(task, layout.size)
    with (
        new_file(path) as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        folders = {**dict.fromkeys(ALWAYS, 0o700), **{link.path: 0o700 for link in layout.links}, **layout.folders}
        for name in sorted(set(folders) - {"", "."}):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.mtime = tarfile.DIRTYPE, folders[name], time
            archive.addfile(member)
        for name, text in _texts(layout, streams, facts).items():
            _add(archive, name, 0o600, len(text), time, io.BytesIO(text))
        for entry in _in_order(layout):
            if context.cancelled():
                raise Interrupted("the export was interrupted", hint="Nothing was written; start it again.")
            if entry.path not in (*_LEFT_OUT, recovery.AUTO):
                _add(archive, entry.path, entry.mode, entry.size, time, _Content(_read(streams, entry)))
            context.progress.advance(task, entry.size)
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile remembers each one: memory without end
    context.progress.end(task)
    with path.open("rb") as made:
        sha256 = hashlib.file_digest(made, "sha256").hexdigest()
    return Exported(path, path.stat().st_size, sha256, facts)


def _in_order(layout: Layout) -> list[Entry]:
    """As they lie in the streams: so each stream is read once from its beginning."""
    return sorted(layout.files.values(), key=lambda entry: (entry.stream, entry.at, entry.path))


def _texts(layout: Layout, streams: Streams, facts: Facts) -> dict[str, bytes]:
    """What is not as in the backup: without it a server would write into the archive of the one that was backed up."""
    auto, conf = (
        b"".join(_read(streams, layout.files[name])).decode(errors="surrogateescape") if name in layout.files else ""
        for name in (recovery.AUTO, recovery.MAIN)
    )
    settings = recovery.settings(recovery.latest(), "")
    if conf:
        settings |= recovery.needed(auto, conf, facts.get("settings", {}))
    found = {
        recovery.AUTO: recovery.merge(auto, settings),
        recovery.SIGNAL: "",
        recovery.MAIN: recovery.minimal(facts),
        recovery.HBA: recovery.HBA_TEXT,
        recovery.IDENT: "",
    }
    own = (recovery.MAIN, recovery.HBA, recovery.IDENT)
    return {
        name: text.encode(errors="surrogateescape")
        for name, text in found.items()
        if name not in own or name not in layout.files
    }


def _read(streams: Streams, entry: Entry) -> Iterator[bytes]:
    return streams.read(entry.stream, entry.at, entry.size) if entry.size else iter(())


def _add(archive: tarfile.TarFile, name: str, mode: int, size: int, time: int, content: io.BytesIO | _Content) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, mode, time
    archive.addfile(member, content)


class _Content:
    """The content of one file, for tarfile to read."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._rest = blocks, memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        """As many bytes as asked for, as tarfile takes fewer for the end."""
        found = bytearray()
        while size < 0 or len(found) < size:
            if not self._rest:
                block = next(self._blocks, None)
                if block is None:
                    break
                self._rest = memoryview(block)
            part = self._rest if size < 0 else self._rest[: size - len(found)]
            found += part
            self._rest = self._rest[len(part) :]
        return bytes(found)
