"""Manifests: what a backup consists of (docs/format.md, section 6)."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keepwell.core import zstd
from keepwell.core.errors import Damaged
from keepwell.core.streams import Json
from keepwell.keys.keyring import Keyring
from keepwell.vault.index import U32, U64

MAGIC = b"KWM1"
COLUMNS = ("pack", "frame", "offset", "length", "first", "pieces", "bytes")


@dataclass(frozen=True, eq=False)
class Extents:
    """Runs of pieces, each inside one frame; columns of equal length."""

    pack: U32
    """Place in the manifest's list of packs."""
    frame: U32
    offset: U32
    length: U32
    first: U32
    pieces: U32
    bytes: U32
    check: U64

    def __len__(self) -> int:
        return len(self.pack)

    def slice(self, start: int, stop: int) -> Extents:
        return Extents.of([getattr(self, c)[start:stop] for c in COLUMNS], self.check[start:stop])

    def rows(self) -> Iterator[Row]:
        columns = [getattr(self, c).tolist() for c in COLUMNS]
        return itertools.starmap(Row, zip(*columns, self.check.tolist(), strict=True))

    @classmethod
    def of(cls, columns: list[U32], check: U64) -> Extents:
        """From the columns in the order of COLUMNS."""
        pack, frame, offset, length, first, pieces, size = columns
        return cls(pack, frame, offset, length, first, pieces, size, check)

    @classmethod
    def join(cls, parts: list[Extents]) -> Extents:
        if not parts:
            return cls.of([np.zeros(0, "<u4") for _ in COLUMNS], np.zeros(0, "<u8"))
        columns = [np.concatenate([getattr(p, c) for p in parts]).astype("<u4", copy=False) for c in COLUMNS]
        return cls.of(columns, np.concatenate([p.check for p in parts]).astype("<u8", copy=False))


class Row(NamedTuple):
    """One extent."""

    pack: int
    frame: int
    offset: int
    length: int
    first: int
    pieces: int
    bytes: int
    check: int

    @property
    def run(self) -> tuple[int, int, int, int]:
        """Which pieces of its frame it is, and what they should be: first, pieces, bytes, check."""
        return self.first, self.pieces, self.bytes, self.check


@dataclass(frozen=True, eq=False)
class StoredStream:
    source: str
    name: str
    size: int
    digest: str
    cut: str
    extents: Extents


@dataclass(frozen=True, eq=False)
class Reference:
    """Frames of one pack that a manifest needs."""

    birth: bytes
    pack: str
    numbers: U32
    """Sorted, unique."""


@dataclass(frozen=True, eq=False)
class Manifest:
    about: dict[str, Json]
    """backup, environment, tier, time, status, program, sources."""
    packs: list[tuple[bytes, str]]
    streams: list[StoredStream]

    def references(self) -> list[Reference]:
        whole = Extents.join([stream.extents for stream in self.streams])
        order = np.argsort(whole.pack, kind="stable")
        packs, frames = whole.pack[order], whole.frame[order]
        bounds = np.searchsorted(packs, np.arange(len(self.packs) + 1))
        return [
            Reference(birth, pack, np.unique(frames[bounds[i] : bounds[i + 1]]))
            for i, (birth, pack) in enumerate(self.packs)
        ]


def encode(keyring: Keyring, name: str, manifest: Manifest) -> bytes:
    backup = str(manifest.about["backup"])
    references = {
        "backup": backup,
        "packs": [[r.birth.hex(), r.pack, _ranges(r.numbers)] for r in manifest.references()],
    }
    outer = keyring.envelope(name, zstd.compress(json.dumps(references, separators=(",", ":")).encode(), 3))
    key = os.urandom(32)
    sealed = keyring.seal("manifest", backup.encode(), key)
    head = MAGIC + struct.pack("<I", len(outer)) + outer + struct.pack("<I", len(sealed)) + sealed
    whole = Extents.join([stream.extents for stream in manifest.streams])
    document = manifest.about | {
        "packs": [[birth.hex(), pack] for birth, pack in manifest.packs],
        "streams": [
            {
                "source": s.source,
                "name": s.name,
                "size": s.size,
                "digest": s.digest,
                "cut": s.cut,
                "extents": len(s.extents),
            }
            for s in manifest.streams
        ],
        "extents": len(whole),
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    columns = b"".join(getattr(whole, c).tobytes() for c in COLUMNS) + whole.check.tobytes()
    plain = zstd.compress(struct.pack("<I", len(text)) + text + columns, 3)
    return head + AESGCM(key).encrypt(bytes(12), plain, hashlib.sha256(head).digest())


def decode_references(keyring: Keyring, name: str, raw: bytes) -> list[Reference]:
    """With any key; `raw` need not hold more than the manifest's first `references_size` bytes. Raises Damaged."""
    outer = raw[8 : references_size(name, raw)]
    try:
        document = json.loads(zstd.decompress(keyring.open(name, outer)))
        return [Reference(bytes.fromhex(birth), pack, _numbers(ranges)) for birth, pack, ranges in document["packs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{name} was altered ({error})") from None


def references_size(name: str, raw: bytes) -> int:
    """How many bytes from the beginning hold the references, from the first 8. Raises Damaged."""
    if raw[:4] != MAGIC or len(raw) < 8:
        raise Damaged(f"{name} was altered or cut short (no manifest of version 1)")
    return 8 + int(struct.unpack_from("<I", raw, 4)[0])


def decode(keyring: Keyring, name: str, backup: str, raw: bytes) -> Manifest:
    """With a reader key. Raises Damaged, KeyCannotRead."""
    _, sealed, at = _parts(name, raw)
    key = keyring.unseal("manifest", backup.encode(), sealed, what=f"the manifest of {backup}")
    try:
        plain = AESGCM(key).decrypt(bytes(12), raw[at:], hashlib.sha256(raw[:at]).digest())
        plain = zstd.decompress(plain)
        (size,) = struct.unpack_from("<I", plain)
        document: dict[str, Any] = json.loads(plain[4 : 4 + size])
        count, at = int(document.pop("extents")), 4 + size
        columns = []
        for _ in COLUMNS:
            columns.append(np.frombuffer(plain, "<u4", count, at))
            at += 4 * count
        whole = Extents.of(columns, np.frombuffer(plain, "<u8", count, at))
        packs = [(bytes.fromhex(birth), pack) for birth, pack in document.pop("packs")]
        streams, first = [], 0
        for s in document.pop("streams"):
            part = whole.slice(first, first + int(s["extents"]))
            if int(part.bytes.sum()) != s["size"] or (len(part) and int(part.pack.max()) >= len(packs)):
                raise ValueError(f"the extents of stream {s['name']} do not add up")
            streams.append(StoredStream(s["source"], s["name"], int(s["size"]), s["digest"], s["cut"], part))
            first += int(s["extents"])
        if first != count or document["backup"] != backup:
            raise ValueError("extents are left over, or it is another backup's")
    except InvalidTag:
        raise Damaged(f"{name} was altered: its authentication tag does not match") from None
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{name} was altered ({error})") from None
    return Manifest(document, packs, streams)


def _parts(name: str, raw: bytes) -> tuple[bytes, bytes, int]:
    try:
        if raw[:4] != MAGIC:
            raise ValueError("no manifest of version 1")
        (outer,) = struct.unpack_from("<I", raw, 4)
        (sealed,) = struct.unpack_from("<I", raw, 8 + outer)
        at = 12 + outer + sealed
        if at + 16 > len(raw):
            raise ValueError("cut short")
        return raw[8 : 8 + outer], raw[12 + outer : at], at
    except (struct.error, ValueError) as error:
        raise Damaged(f"{name} was altered or cut short ({error})") from None


def _ranges(numbers: U32) -> list[int]:
    """`[first, last, first, last, …]`"""
    if not len(numbers):
        return []
    breaks = np.flatnonzero(np.diff(numbers) != 1)
    firsts = np.concatenate((numbers[:1], numbers[breaks + 1]))
    lasts = np.concatenate((numbers[breaks], numbers[-1:]))
    return [int(n) for n in np.stack((firsts, lasts), axis=1).ravel()]


def _numbers(ranges: list[int]) -> U32:
    parts = [np.arange(ranges[i], ranges[i + 1] + 1, dtype="<u4") for i in range(0, len(ranges), 2)]
    return np.concatenate(parts) if parts else np.zeros(0, "<u4")
