"""What the last backup of a cluster was like, so that the next need only be told what changed.

A file in the cache folder, which may be lost or damaged at any time: the pieces of every relation file (20 bytes a page), the
server's backup manifest, and a list of the files; BLAKE3 over all of it at the end.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from keepwell.core.streams import Held, Sink

PAGE = 8192
TOKEN = 20
"""Bytes of a piece as `StreamWriter.take_ids` gives it."""
_TAIL = struct.Struct("<4sQQQ32s")
_MAGIC = b"KWP2"
_AT_ONCE = TOKEN << 16


def cache_path(folder: Path | None, system: str, place: str) -> Path | None:
    if folder is None:
        return None
    return folder / f"physical-{blake3(f'{system} {place}'.encode()).hexdigest()[:32]}.map"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the file system says of a file: as long as this is the same, nothing was written. Times in nanoseconds."""

    size: int
    written: int
    changed: int
    inode: int


@dataclass
class Previous:
    """The pages of an earlier backup, and the manifest that the server made of it."""

    timeline: int
    manifest: bytes
    damaged: dict[str, list[int]]
    """Blocks by path that were damaged on the server, and kept."""
    started: str
    """When the server was started whose files were read themselves; empty where they were not."""
    checksums: str
    """The server's data_checksums. Switching them writes every page, and no log."""
    _stamps: dict[str, list[int]]
    _files: dict[str, tuple[int, int]]
    _tokens: memoryview
    _held: Held | None = None

    @classmethod
    def load(cls, path: Path | None, system: str) -> Previous | None:
        """None where there is nothing that can be used."""
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            magic, tokens, manifest, listing, digest = _TAIL.unpack(view[-_TAIL.size :])
            body = view[: -_TAIL.size]
            if magic != _MAGIC or tokens + manifest + listing != len(body) or blake3(body).digest() != digest:
                return None
            about = json.loads(bytes(body[tokens + manifest :]))
            if about["system"] != system:
                return None
            files = {name: (at, pages) for name, at, pages in about["files"]}
            damaged: dict[str, list[int]] = {}
            for name, block in about["damaged"]:
                damaged.setdefault(name, []).append(block)
            return cls(
                about["timeline"],
                bytes(body[tokens : tokens + manifest]),
                damaged,
                about.get("started", ""),
                about.get("checksums", ""),
                about.get("stamps", {}),
                files,
                body[:tokens],
            )
        except (OSError, ValueError, KeyError, TypeError, struct.error):
            return None

    @property
    def size(self) -> int:
        """Pages of all files."""
        return len(self._tokens) // TOKEN

    def files(self) -> Iterator[tuple[str, Held]]:
        """Every relation file and its pages, one piece each. Only of a backup that `is_held`, as below."""
        for path, (at, pages) in self._files.items():
            yield path, self._part(at, pages)

    def pages(self, path: str) -> Held | None:
        """Those of a file; None where it had no such file."""
        found = self._files.get(path)
        return None if found is None else self._part(*found)

    def _part(self, at: int, pages: int) -> Held:
        if self._held is None:
            raise ValueError("nobody asked whether the vault has these pages")
        return self._held.part(at // TOKEN, at // TOKEN + pages)

    def unchanged(self, path: str, stamp: Stamp) -> Held | None:
        """The pieces of a file that is as it was, and whole; None where that is not known."""
        was, found = self._stamps.get(path), self.pages(path)
        if was is None or found is None or path in self.damaged or Stamp(*was) != stamp:
            return None
        return found if len(found) * PAGE == stamp.size else None

    def is_held(self, sink: Sink) -> bool:
        """Whether the vault still has every page."""
        if self._held is not None:
            return True
        places = bytearray()
        for at in range(0, len(self._tokens), _AT_ONCE):
            found = sink.find(self._tokens[at : at + _AT_ONCE])
            if found is None:
                return False
            places += found.places
        self._held = Held(self._tokens, memoryview(places))
        return True


class Recorder:
    """Writes the same of the backup that is being taken. What goes wrong with a cache is no reason to lose a backup."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._files: list[tuple[str, int, int]] = []
        self._at = 0
        self._hasher = blake3()
        if path is None:
            return
        self._fresh = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._fresh.open("wb")

    def add(self, path: str, tokens: bytes | memoryview) -> None:
        self._files.append((path, self._at, len(tokens) // TOKEN))
        self._at += len(tokens)
        self._write(tokens)

    def keep(
        self,
        system: str,
        timeline: int,
        manifest: bytes,
        damaged: list[tuple[str, int]],
        started: str,
        stamps: Mapping[str, Stamp],
        checksums: str,
    ) -> None:
        """The backup is whole: from now on this is the previous one."""
        told = {path: [s.size, s.written, s.changed, s.inode] for path, s in stamps.items()}
        about = json.dumps(
            {
                "system": system,
                "timeline": timeline,
                "files": self._files,
                "damaged": damaged,
                "started": started,
                "stamps": told,
                "checksums": checksums,
            }
        ).encode()
        self._write(manifest)
        self._write(about)
        if self._file is None or self._path is None:
            return
        try:
            self._file.write(_TAIL.pack(_MAGIC, self._at, len(manifest), len(about), self._hasher.digest()))
            self._file.close()
            self._fresh.replace(self._path)
            self._file = None
        except OSError:
            self.drop()

    def drop(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
                self._fresh.unlink(missing_ok=True)
            self._file = None

    def _write(self, data: bytes | memoryview) -> None:
        self._hasher.update(data)
        if self._file is not None:
            try:
                self._file.write(data)
            except OSError:
                self.drop()
