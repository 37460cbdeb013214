"""The two streams of a repository, and how a file for `git clone` comes out of them.

`bundle-head` is the beginning of a git bundle: its first line, a line for each ref (HEAD first), an empty line, and the
twelve bytes that a pack begins with. `objects` is everything else of the pack but the checksum at its end: what several
packs have between head and end, one after the other. Such an object says where it lies relative to what it is a
difference to, so the parts are one valid pack. `bundle-head`, `objects` and the hash over the pack are the bundle.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from keepwell.core.errors import Damaged
from keepwell.core.streams import Streams
from keepwell.sources.git.refs import Refs

HEAD, OBJECTS = "bundle-head", "objects"
PACK = struct.Struct(">4sII")
_LINE = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64}) (HEAD|refs/[^\x00-\x20\x7f~^:?*\[\\]+)")
_FIRST = {"sha1": "# v2 git bundle\n", "sha256": "# v3 git bundle\n@object-format=sha256\n"}


@dataclass(frozen=True)
class Head:
    format: str
    by_name: dict[str, str]
    at: str
    """What HEAD leads to; empty: nothing."""
    raw: bytes


def head_of(refs: Refs, object_format: str, objects: int) -> bytes:
    lines = [f"{refs.at} HEAD\n"] if refs.at else []
    lines += [f"{ident} {name}\n" for name, ident in refs.by_name.items()]
    text = _FIRST[object_format] + "".join(lines) + "\n"
    return text.encode("utf-8", "surrogateescape") + PACK.pack(b"PACK", 2, objects)


def read_head(streams: Streams) -> Head:
    """Raises Damaged."""
    raw = b"".join(streams.read(HEAD))
    text = raw[: -PACK.size].decode("utf-8", "surrogateescape")
    for object_format, first in _FIRST.items():
        if text.startswith(first) and text.endswith("\n\n") and raw[-PACK.size :].startswith(b"PACK"):
            by_name: dict[str, str] = {}
            for line in text[len(first) : -1].splitlines():
                found = _LINE.fullmatch(line)
                if found is None or ".." in found[2]:
                    break
                by_name[found[2]] = found[1]
            else:
                at = by_name.pop("HEAD", "")
                return Head(object_format, by_name, at, raw)
    raise Damaged(
        "the list of refs says what cannot be", hint="Run `keepwell check`, and restore an older backup or a copy."
    )


def blocks(streams: Streams, head: Head) -> Iterator[bytes]:
    """The bundle."""
    hasher = hashlib.new(head.format)
    hasher.update(head.raw[-PACK.size :])
    yield head.raw
    for block in streams.read(OBJECTS):
        hasher.update(block)
        yield block
    yield hasher.digest()
