"""What the last backup of a repository had, so that only new objects are read.

It may be lost or damaged at any time: then everything is read and stored again.
"""

from __future__ import annotations

import contextlib
import json
import os
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from keepwell.sources.git.ids import Ids

_MAGIC = b"keepwell git 1\n"


@dataclass
class Segment:
    """A pack's objects in the stream, without its head and end."""

    size: int
    objects: int
    pieces: bytes
    """As `StreamWriter.take_ids` gave them."""


@dataclass
class Memory:
    format: str
    """`sha1` or `sha256`."""
    tips: list[str]
    segments: list[Segment]
    known: Ids
    """All objects in the segments."""
    garbage: set[bytes] = field(default_factory=set)
    """Those of them that no ref leads to any more."""
    lfs: int = 0
    """Pointers to large files that are elsewhere."""
    has_lfs: bool = False

    @property
    def size(self) -> int:
        return sum(segment.size for segment in self.segments)

    @property
    def pieces(self) -> bytes:
        return b"".join(segment.pieces for segment in self.segments)


def width_of(object_format: str) -> int:
    return 32 if object_format == "sha256" else 20


def file_of(cache: Path, shown: str) -> Path:
    return cache / f"git-{blake3(shown.encode()).hexdigest()[:32]}.memory"


def load(path: Path) -> Memory | None:
    """None where there is none, or one that does not fit its checksum."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    start = len(_MAGIC) + 32
    if not raw.startswith(_MAGIC) or blake3(raw[start:]).digest() != raw[len(_MAGIC) : start]:
        return None
    head, _, data = raw[start:].partition(b"\n")
    found = json.loads(head)
    return Memory(
        found["format"],
        found["tips"],
        [Segment(size, objects, b64decode(pieces)) for size, objects, pieces in found["segments"]],
        Ids(width_of(found["format"]), data),
        {bytes.fromhex(ident) for ident in found["garbage"]},
        found["lfs"],
        found["has_lfs"],
    )


def save(path: Path, memory: Memory) -> None:
    """No space for a cache is no reason to lose a backup: then there is none next time."""
    head = {
        "format": memory.format,
        "tips": memory.tips,
        "segments": [[s.size, s.objects, b64encode(s.pieces).decode()] for s in memory.segments],
        "garbage": sorted(ident.hex() for ident in memory.garbage),
        "lfs": memory.lfs,
        "has_lfs": memory.has_lfs,
    }
    body = json.dumps(head).encode() + b"\n" + memory.known.data
    fresh = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(_MAGIC + blake3(body).digest() + body)
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
