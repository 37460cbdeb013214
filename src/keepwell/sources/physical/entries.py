"""What a cluster's data directory consists of, as the stream `entries` of a physical backup.

One line of JSON an entry, sorted by path: `{"path", "kind", "mode", "size", "in", "at", "target"}`. The bytes of a file stand in
the stream `pages` (relation files: whole pages of 8 KiB, one after the other) or `content` (everything else), from `at` on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from keepwell.core.errors import Damaged

STREAM, PAGES, CONTENT = "entries", "pages", "content"


@dataclass(frozen=True, slots=True)
class Entry:
    path: str
    """Relative to the data directory, `/`-separated; what lies in a tablespace below `pg_tblspc/<oid>/`.
    Bytes that are not UTF-8 as surrogates (`os.fsdecode`)."""
    kind: Literal["file", "dir", "link"]
    mode: int
    """Permission bits."""
    size: int = 0
    stream: str = ""
    """`pages` or `content`; empty for what has no bytes."""
    at: int = 0
    """Where its bytes begin in that stream."""
    target: str = ""
    """A tablespace's place on the server that was backed up (`kind` is link, path `pg_tblspc/<oid>`)."""


def encode(entries: Iterable[Entry]) -> Iterator[bytes]:
    for e in sorted(entries, key=lambda e: e.path):
        line: dict[str, object] = {"path": e.path, "kind": e.kind, "mode": e.mode}
        if e.kind == "file":
            line |= {"size": e.size}
            if e.size:
                line |= {"in": e.stream, "at": e.at}
        elif e.kind == "link":
            line |= {"target": e.target}
        yield json.dumps(line, separators=(",", ":")).encode() + b"\n"


def decode(blocks: Iterable[bytes]) -> Iterator[Entry]:
    """Raises Damaged."""
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from map(_entry, lines)
    if rest:
        raise Damaged("the list of the cluster's files ends in the middle of a line")


def _entry(line: bytes) -> Entry:
    try:
        found = json.loads(line)
        kind, size = found["kind"], found.get("size", 0)
        if kind not in ("file", "dir", "link") or (size and found["in"] not in (PAGES, CONTENT)):
            raise ValueError(kind)
        return Entry(
            found["path"], kind, found["mode"], size, found.get("in", ""), found.get("at", 0), found.get("target", "")
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"a line of the list of the cluster's files cannot be read: {line[:120]!r}") from error
