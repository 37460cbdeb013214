"""The two streams that the files of a cluster go into, and what is remembered of each page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keepwell.core.errors import SourceError
from keepwell.core.streams import Buffer, Held, StreamWriter
from keepwell.sources.physical.previous import TOKEN

PAGE = 8192
_TAKE = 512 << 20
"""Bytes after which the pieces are asked for: the writer has to end what it has under way for that."""
_SMALL = 64 << 10
_ZEROS = bytes(64 * PAGE)


class PagesLane:
    """Relation files one after the other, in whole pages. `keep` is given each file's pieces."""

    def __init__(self, writer: StreamWriter, keep: Callable[[str, memoryview], None]) -> None:
        self.position = 0
        self.is_told = True
        """Whether `keep` was given the pieces of every file."""
        self._writer, self._keep = writer, keep
        self._anew = False
        self._files: list[tuple[str, int]] = []
        self._taken = 0

    def anew(self, on: bool) -> None:
        """Whether the pages that are written from here on are stored even where the vault has them."""
        if on != self._anew:
            self._writer.anew(on)
            self._anew = on

    def room(self, size: int) -> memoryview:
        return self._writer.room(size)

    def write(self, data: Buffer) -> None:
        self._writer.write(data)
        self.position += len(data)

    def zeros(self, pages: int) -> None:
        while pages:
            some = min(pages, len(_ZEROS) // PAGE)
            self.write(memoryview(_ZEROS)[: some * PAGE])
            pages -= some

    def reuse(self, pages: Held) -> None:
        """Pages that the vault has. Raises SourceError where it lost them since it was asked."""
        if not self._writer.reuse(pages, len(pages) * PAGE):
            raise SourceError(
                "pages of the last backup went away while this one ran",
                hint="Run the backup again: it reads everything.",
            )
        self.position += len(pages) * PAGE

    def overlay(self, pages: Held, places: Sequence[int], data: Buffer) -> None:
        """The same, with new pages at some places among them."""
        self._writer.overlay(pages, places, data)
        self.position += len(pages) * PAGE

    def end(self, path: str, pages: int) -> None:
        """All pages of the file have come."""
        self._files.append((path, pages))
        if self.position - self._taken >= _TAKE:
            self._hand_over()

    def close(self) -> None:
        self._hand_over()
        self._writer.close()

    def _hand_over(self) -> None:
        view, at = memoryview(self._writer.take_ids()), 0
        self._taken = self.position
        if len(view) == TOKEN * sum(pages for _, pages in self._files):
            for path, pages in self._files:
                self._keep(path, view[at : at + TOKEN * pages])
                at += TOKEN * pages
        else:  # a sink that does not tell what it cut
            self.is_told = False
        self._files = []


class ContentLane:
    """All other files. Small ones are cut together, larger ones each by themselves."""

    def __init__(self, writer: StreamWriter) -> None:
        self.position = 0
        self._writer = writer

    def room(self, size: int) -> memoryview:
        return self._writer.room(size)

    def begin(self, size: int) -> None:
        if size > _SMALL:
            self._writer.boundary()

    def write(self, data: Buffer) -> None:
        self._writer.write(data)
        self.position += len(data)

    def end(self, size: int) -> None:
        if size > _SMALL:
            self._writer.boundary()

    def close(self) -> None:
        self._writer.close()
