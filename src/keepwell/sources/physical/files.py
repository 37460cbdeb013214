"""The files of a base backup as they come out of its tar archives: pages here, content there, and an entry for each."""

from __future__ import annotations

import os
import re
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from keepwell.core.errors import SourceError
from keepwell.core.streams import Buffer, Held
from keepwell.sources.physical.checksums import Verifier
from keepwell.sources.physical.entries import CONTENT, PAGES, Entry
from keepwell.sources.physical.incremental import PREFIX, Blocks, HeaderReader, runs
from keepwell.sources.physical.lanes import PAGE, ContentLane, PagesLane
from keepwell.sources.physical.previous import Previous
from keepwell.sources.physical.tarstream import Header, TarReader

RELATION = r"(?:base/\d+|global|pg_tblspc/\d+/PG_[^/]+/\d+)/\d+(?:_(?:fsm|vm|init))?(?:\.\d+)?"
_RELATION = re.compile(RELATION)
_LABEL, _MAP = "backup_label", "tablespace_map"
_INCREMENTAL_LINES = (b"INCREMENTAL FROM LSN:", b"INCREMENTAL FROM TLI:")
_MOST_LABEL = 1 << 20
_AT_ONCE = 1 << 20
"""Bytes of changed blocks that are laid over the old ones together."""


class Files:
    """Takes the archives of one base backup, one after the other."""

    def __init__(
        self,
        pages: PagesLane,
        content: ContentLane,
        previous: Previous | None = None,
        verifier: Verifier | None = None,
        anew: Collection[str] = (),
    ) -> None:
        """`anew`: relation files that come whole and are stored anew, since their pages lie scattered."""
        self.entries: list[Entry] = []
        self.bytes = 0
        """Of the files as they are on the server, whether sent or known."""
        self.odd: list[str] = []
        """Relation files that are no whole pages: they were taken by content."""
        self.rewritten = 0
        """Relation files that were stored anew."""
        self.still_damaged: list[tuple[str, int]] = []
        """Path and block of damaged pages that are those of the last backup."""
        self._pages, self._content, self._previous, self._verifier = pages, content, previous, verifier
        self._anew = anew
        self._tar: TarReader | None = None
        self._prefix = ""
        self._file: _Whole | _Changed | None = None

    def begin(self, tablespace: str) -> None:
        """An archive begins: of the tablespace with this oid, or (empty) of the data directory."""
        self._end_archive()
        self._tar, self._prefix = TarReader(), f"pg_tblspc/{tablespace}/" if tablespace else ""

    def feed(self, data: memoryview) -> None:
        """Raises SourceError where the server sends what cannot be read."""
        assert self._tar is not None
        try:
            for found in self._tar.feed(data):
                if isinstance(found, Header):
                    self._end_file()
                    self._begin_file(found)
                elif self._file is not None:
                    self._file.write(found)
        except ValueError as error:
            raise _unreadable(error) from error

    @property
    def is_told(self) -> bool:
        """Whether the pieces of every page are known."""
        return self._pages.is_told

    def link(self, oid: str, place: str) -> None:
        """A tablespace. One without a whole path as its place lies in the data directory itself."""
        if place.startswith("/"):
            self.entries.append(Entry(f"pg_tblspc/{oid}", "link", 0o777, target=place))
        else:
            self.entries.append(Entry(f"pg_tblspc/{oid}", "dir", 0o700))

    # Where the files are read without the server: one after the other, `open`, `write` until it has its size, or one of the others

    @staticmethod
    def is_relation(path: str) -> bool:
        return _RELATION.fullmatch(path) is not None

    def stores_anew(self, path: str) -> bool:
        return path in self._anew

    def folder(self, path: str, mode: int) -> None:
        self.entries.append(Entry(path, "dir", mode))

    def open(self, path: str, mode: int, size: int) -> None:
        self._end_file()
        self._file = self._opened(path, Header(os.fsencode(path), "file", mode, size, b""))

    def room(self, size: int) -> memoryview:
        """Memory for the next bytes of that file, at most so many; what is written from there need not be copied."""
        assert self._file is not None
        return self._file.lane.room(size)

    def write(self, data: memoryview) -> None:
        assert self._file is not None
        self._file.write(data)

    def whole(self, path: str, mode: int, data: bytes) -> None:
        self.open(path, mode, len(data))
        self.write(memoryview(data))

    def over(self, path: str, mode: int, size: int, old: Held, blocks: npt.NDArray[np.uint32]) -> None:
        """Of a relation file only these blocks are written, with `write`; the others are as they were."""
        self._end_file()
        self._pages.anew(False)
        self._file = _Changed(path, mode, old, self._pages, self._verifier, [], Blocks(blocks, size // PAGE))

    def known(self, path: str, mode: int, pages: Held) -> None:
        """A relation file whose every page is as it was in the last backup."""
        self._end_file()
        self._pages.anew(False)
        at, size = self._pages.position, len(pages) * PAGE
        if size:
            self._pages.reuse(pages)
        self._pages.end(path, len(pages))
        self.entries.append(Entry(path, "file", mode, size, PAGES if size else "", at))
        self.bytes += size

    def close(self) -> None:
        self._end_archive()
        if self._verifier is not None:
            self._verifier.close()
        self._pages.close()
        self._content.close()

    def _end_archive(self) -> None:
        self._end_file()
        if self._tar is not None:
            try:
                self._tar.close()
            except ValueError as error:
                raise _unreadable(error) from error
            self._tar = None

    def _begin_file(self, header: Header) -> None:
        name = os.fsdecode(header.name).removeprefix("./")
        if name in ("", "."):  # the directory itself
            return
        path = self._prefix + name
        if path.startswith(("/", "../")) or "/../" in path:
            raise SourceError(f"the server sent a file with the name {path!r}, which leads out of its directory")
        if header.kind == "dir":
            self.entries.append(Entry(path, "dir", header.mode))
        elif header.kind == "link":  # tablespaces are told before
            raise SourceError(
                f"the server sent a link, {path}, which no cluster has",
                hint="Take it out of the data directory of the server, where PostgreSQL itself puts none.",
            )
        elif path != _MAP:
            self._file = self._opened(path, header)

    def _opened(self, path: str, header: Header) -> _Whole | _Changed:
        self._pages.anew(path in self._anew)
        folder, _, name = path.rpartition("/")
        if name.startswith(PREFIX):
            target = f"{folder}/{name.removeprefix(PREFIX)}"
            old = self._previous.pages(target) if self._previous else None
            if self._previous is None or old is None:
                raise SourceError(
                    f"the server sent only the changes of {target}, which the last backup did not have",
                    hint="Remove the cache folder of keepwell and run the backup again: it then reads everything.",
                )
            known, reader = self._previous.damaged.get(target, []), HeaderReader(header.size)
            return _Changed(target, header.mode, old, self._pages, self._verifier, known, reader)
        is_relation = self.is_relation(path)
        if is_relation and header.size % PAGE == 0:
            self.rewritten += path in self._anew
            return _Whole(path, header, self._pages, self._verifier)
        if is_relation:
            self.odd.append(path)
        return _Whole(path, header, self._content, rewrite=path == _LABEL)

    def _end_file(self) -> None:
        if self._file is not None:
            entry = self._file.end()
            if isinstance(self._file, _Changed):
                self.still_damaged += [(entry.path, block) for block in self._file.still_damaged]
            self.entries.append(entry)
            self.bytes += entry.size
            self._file = None


class _Whole:
    """A file that came in full."""

    def __init__(
        self,
        path: str,
        header: Header,
        lane: PagesLane | ContentLane,
        verifier: Verifier | None = None,
        *,
        rewrite: bool = False,
    ) -> None:
        self._path, self._header, self.lane, self._verifier = path, header, lane, verifier
        self._size = 0
        self._at = lane.position
        self._label = bytearray() if rewrite else None
        if isinstance(lane, ContentLane):
            lane.begin(header.size)
        if verifier is not None:
            verifier.at(path, 0)

    def write(self, data: Buffer) -> None:
        if self._label is None:
            self.lane.write(data)
            self._size += len(data)
            if self._verifier is not None:
                self._verifier.feed(data)
        elif len(self._label) + len(data) <= _MOST_LABEL:
            self._label += data
        else:
            raise ValueError("the backup label is too long to be one")

    def end(self) -> Entry:
        if self._label is not None:
            lines = bytes(self._label).splitlines(keepends=True)
            label = b"".join(line for line in lines if not line.startswith(_INCREMENTAL_LINES))
            self.lane.write(label)
            self._size = len(label)
        if isinstance(self.lane, PagesLane):
            self.lane.end(self._path, self._size // PAGE)
            stream = PAGES
        else:
            self.lane.end(self._header.size)
            stream = CONTENT
        return Entry(self._path, "file", self._header.mode, self._size, stream if self._size else "", self._at)


class _Changed:
    """A file of which only the changed blocks came: laid over the pages of the last backup, many at a time."""

    def __init__(
        self,
        path: str,
        mode: int,
        old: Held,
        lane: PagesLane,
        verifier: Verifier | None,
        damaged: list[int],
        which: Blocks | HeaderReader,
    ) -> None:
        """`which`: the blocks that come, or what finds them in the file's beginning."""
        self._path, self._mode, self._old, self.lane, self._verifier = path, mode, old, lane, verifier
        self._damaged = damaged
        self.still_damaged: list[int] = []
        """Blocks that were damaged in the last backup, and come from there."""
        self._at = lane.position
        self._which = which
        self._fresh = bytearray()
        self._done = self._used = 0
        """Blocks of the file, and of those that came, which are in the stream."""

    def write(self, data: memoryview) -> None:
        if isinstance(self._which, HeaderReader):
            found = self._which.feed(data)
            if found is None:
                return
            self._which, used = found
            data = data[used:]
        blocks = self._which
        if self._used * PAGE + len(self._fresh) + len(data) > len(blocks.numbers) * PAGE:
            raise ValueError("an incremental file has more blocks than its header says")
        if not self._fresh and len(data) >= _AT_ONCE and len(data) % PAGE == 0:
            self._lay(blocks, data)
            return
        self._fresh += data
        if len(self._fresh) >= _AT_ONCE:
            fresh, self._fresh = memoryview(self._fresh), bytearray()
            whole = len(fresh) // PAGE * PAGE
            self._fresh += fresh[whole:]
            self._lay(blocks, fresh[:whole])

    def end(self) -> Entry:
        blocks = self._which
        if isinstance(blocks, HeaderReader) or self._used * PAGE + len(self._fresh) < len(blocks.numbers) * PAGE:
            raise ValueError("an incremental file is cut short")
        self._lay(blocks, memoryview(self._fresh))
        size = blocks.length * PAGE
        self.lane.end(self._path, blocks.length)
        return Entry(self._path, "file", self._mode, size, PAGES if size else "", self._at)

    def _lay(self, blocks: Blocks, data: memoryview) -> None:
        """The next blocks that came, and everything before the one after them."""
        numbers = blocks.numbers[self._used : self._used + len(data) // PAGE]
        self._used += len(numbers)
        following = int(blocks.numbers[self._used]) if self._used < len(blocks.numbers) else blocks.length
        start, known = self._done, max(self._done, min(following, len(self._old)))
        inside = int(np.searchsorted(numbers, known))
        if known > start:
            there = numbers[:inside]
            self.lane.overlay(self._old.part(start, known), (there - start).tolist(), data[: inside * PAGE])
            kept = {block for block in self._damaged if start <= block < known} - set(there.tolist())
            self.still_damaged += sorted(kept)
        at = known
        for first, block, end in runs(numbers[inside:]):
            self.lane.zeros(block - at)  # neither backup has them: they were never written
            self.lane.write(data[(inside + first) * PAGE :][: (end - block) * PAGE])
            at = end
        self.lane.zeros(following - at)
        self._done = following
        if self._verifier is not None:
            self._verifier.at(self._path, numbers)
            self._verifier.feed(data)


def _unreadable(error: ValueError) -> SourceError:
    return SourceError(
        f"the server's base backup cannot be read: {error}",
        hint="Try again; if it happens again, report it with the version of the server.",
    )
