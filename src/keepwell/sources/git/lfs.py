"""Git LFS: files that are not in the repository, where only a pointer stands for each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from keepwell.sources.git.program import Git

_POINTER = b"version https://git-lfs.github.com/spec/v1"
_LEAST, _MOST = 100, 1024
"""How long pointers are, in bytes; the specification says below 1024."""


def attributes_name_lfs(reader: Git, blobs: list[str], work: Path) -> bool:
    """Whether one of these `.gitattributes` hands files to LFS."""
    return any(b"filter=lfs" in line for line in _contents(reader, blobs, work))


def count_pointers(reader: Git, idents: Iterable[bytes], work: Path) -> int:
    """How many of these objects are pointers, each to a file of its own."""
    wanted = work / "lfs-candidates"
    with wanted.open("wb") as file:
        file.writelines(ident.hex().encode() + b"\n" for ident in idents)
    small = []
    for line in reader.lines("cat-file", "--batch-check=%(objecttype) %(objectsize) %(objectname)", stdin=wanted):
        kind, size, ident = line.split()
        if kind == b"blob" and _LEAST <= int(size) <= _MOST:
            small.append(ident.decode())
    return sum(line.startswith(_POINTER) for line in _contents(reader, small, work))


def _contents(reader: Git, blobs: list[str], work: Path) -> Iterable[bytes]:
    """All their lines, without saying whose they are."""
    if not blobs:
        return ()
    wanted = work / "lfs-wanted"
    wanted.write_text("".join(f"{ident}\n" for ident in blobs))
    return reader.lines("cat-file", "--batch", "--buffer", stdin=wanted)
