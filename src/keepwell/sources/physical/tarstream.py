"""Reading a tar stream as it comes: no seeking, no more in memory than a header. Pure.

Source: POSIX.1-1988 ustar, as PostgreSQL's `src/port/tar.c` writes it (names up to 99 bytes, sizes in octal, or in base 256 from
8 GiB on); any other kind of entry is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

BLOCK = 512
_KINDS = {b"0": "file", b"\0": "file", b"2": "link", b"5": "dir"}


@dataclass(frozen=True, slots=True)
class Header:
    name: bytes
    kind: str
    """`file`, `link` or `dir`."""
    mode: int
    size: int
    target: bytes


class TarReader:
    """`feed` it blocks of any size: it gives headers, and after the header of a file its bytes. `close` at the end."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = 0
        """Bytes of the file's content still to come."""
        self._padding = 0
        self._zeros = 0

    def feed(self, data: memoryview | bytes) -> Iterator[Header | memoryview]:
        """Raises ValueError where this is no such tar. Views are valid until the next step."""
        view = memoryview(data)
        at, end = 0, len(view)
        while at < end:
            if self._left:
                take = min(self._left, end - at)
                yield view[at : at + take]
                self._left -= take
                at += take
            elif self._padding:
                take = min(self._padding, end - at)
                self._padding -= take
                at += take
            else:
                take = min(BLOCK - len(self._head), end - at)
                self._head += view[at : at + take]
                at += take
                if len(self._head) == BLOCK:
                    head, self._head = bytes(self._head), bytearray()
                    if (found := self._header(head)) is not None:
                        yield found

    def close(self) -> None:
        """Raises ValueError where the stream ended in the middle of something."""
        if self._left or self._padding or self._head:
            raise ValueError("the tar stream ends in the middle of an entry")

    def _header(self, head: bytes) -> Header | None:
        if not any(head):
            self._zeros += 1
            return None
        if self._zeros:
            raise ValueError("the tar stream goes on after its end")
        if head[257:262] != b"ustar":
            raise ValueError("not a header of a ustar archive")
        if _number(head[148:156]) != sum(head[:148]) + 8 * 0x20 + sum(head[156:]):
            raise ValueError("the checksum of a tar header is wrong")
        kind = _KINDS.get(head[156:157])
        if kind is None:
            raise ValueError(f"an entry of an unknown kind {head[156:157]!r}")
        name, prefix = _text(head[:100]), _text(head[345:500])
        if prefix:
            name = prefix + b"/" + name
        size = _number(head[124:136])
        if not name or (size and kind != "file"):
            raise ValueError("a tar header without a name, or with a content that it cannot have")
        self._left, self._padding = size, -size % BLOCK
        return Header(name.rstrip(b"/"), kind, _number(head[100:108]) & 0o7777, size, _text(head[157:257]))


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # base 256
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    text = field.strip(b" \0")
    if text and not set(text) <= set(b"01234567"):
        raise ValueError(f"{field!r} is not a number of a tar header")
    return int(text, 8) if text else 0
