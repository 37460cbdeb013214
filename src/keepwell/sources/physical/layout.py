"""What a restore makes of the list of files: which bytes of which stream go where."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from keepwell.core.errors import Damaged
from keepwell.core.streams import Streams
from keepwell.sources.physical.entries import CONTENT, PAGES, STREAM, Entry, decode

ALWAYS = ("global", "pg_wal", "pg_wal/archive_status", "pg_tblspc")
"""Directories without which no server starts."""


@dataclass
class Layout:
    folders: dict[str, int] = field(default_factory=dict)
    """Modes by path; what lies deeper comes later."""
    links: list[Entry] = field(default_factory=list)
    files: dict[str, Entry] = field(default_factory=dict)
    placed: dict[str, list[Entry]] = field(default_factory=dict)
    """Per stream the files in it, in the order of their bytes."""
    starts: dict[str, list[int]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.files.values())

    def in_order(self) -> Iterator[Entry]:
        """All files: first those with content, as they stand in the streams."""
        for placed in self.placed.values():
            yield from placed
        yield from (entry for entry in self.files.values() if not entry.size)

    def parts(self, stream: str, at: int, length: int) -> Iterator[tuple[Entry, int, int, int]]:
        """Which files a run of the stream's bytes belongs to: entry, offset in the file, offset in the run, length."""
        starts, placed = self.starts.get(stream, []), self.placed.get(stream, [])
        index, done = bisect_right(starts, at) - 1, 0
        while done < length:
            entry = placed[index] if 0 <= index < len(placed) else None
            offset = at + done - starts[index] if entry else 0
            if entry is None or offset >= entry.size:
                raise Damaged(f"byte {at + done} of the stream {stream} belongs to no file of the cluster")
            count = min(length - done, entry.size - offset)
            yield entry, offset, done, count
            done += count
            index += 1


def read_layout(streams: Streams) -> Layout:
    """Raises Damaged where the list and the streams do not fit together, or a path leads out of the directory."""
    layout = Layout()
    for entry in decode(streams.read(STREAM)):
        _check(entry)
        if entry.kind == "dir":
            layout.folders[entry.path] = entry.mode
        elif entry.kind == "link":
            layout.links.append(entry)
        elif entry.path in layout.files:
            raise Damaged(f"{entry.path} is in the list of the cluster's files twice")
        else:
            layout.files[entry.path] = entry
    if "PG_VERSION" not in layout.files or "global/pg_control" not in layout.files:
        raise Damaged(
            "the list of files is not that of a PostgreSQL cluster: PG_VERSION or global/pg_control is missing"
        )
    for name in (PAGES, CONTENT):
        _place(layout, name, streams)
    return layout


def _place(layout: Layout, name: str, streams: Streams) -> None:
    placed = sorted((e for e in layout.files.values() if e.size and e.stream == name), key=lambda e: e.at)
    end = 0
    for entry in placed:
        if entry.at != end:
            raise Damaged(f"the bytes of {entry.path} do not follow those of the file before it")
        end += entry.size
    size = streams.size(name) if name in streams.names() else 0
    if end != size:
        raise Damaged(f"the files of the cluster have {end} bytes in the stream {name}, which has {size}")
    layout.placed[name], layout.starts[name] = placed, [entry.at for entry in placed]


def _check(entry: Entry) -> None:
    path = PurePosixPath(entry.path)
    if path.is_absolute() or ".." in path.parts or "\0" in entry.path or str(path) != (entry.path or "."):
        raise Damaged(f"the list of the cluster's files names the path {entry.path!r}, which leads out of it")
    if entry.kind == "link":
        of_tablespace = len(path.parts) == 2 and path.parts[0] == "pg_tblspc" and path.parts[1].isdecimal()
        if not of_tablespace or not entry.target.startswith("/"):
            raise Damaged(f"the list of the cluster's files has a link that is no tablespace: {entry.path!r}")
    if entry.size < 0 or entry.at < 0 or not 0 <= entry.mode <= 0o7777:
        raise Damaged(f"the list of the cluster's files says what cannot be of {entry.path!r}")
