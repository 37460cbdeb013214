"""One object of the log: a head for every key holder, frames for readers (docs/format.md, section 11)."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import struct
from dataclasses import dataclass
from typing import Any

import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keepwell.core import zstd
from keepwell.core.clock import from_iso, iso
from keepwell.core.errors import Damaged
from keepwell.core.streams import Buffer, Json
from keepwell.keys.keyring import Keyring
from keepwell.stores.base import Store

MAGIC = b"KWL1"
FRAME = 1 << 20
_FIRST_READ = 8 << 10
"""Holds head and key of all but the largest objects."""
_LONGEST_HEAD = 1 << 20
_NONE, _ZSTD = b"\x00", b"\x01"


@dataclass(frozen=True, repr=False)
class Head:
    """What any key holder can tell of an object."""

    name: str
    size: int
    """Plain bytes."""
    time: dt.datetime
    digest: str
    frame: int
    frames: tuple[int, ...]
    about: dict[str, Json]
    """start, end, timeline, segment_size of a part; file of a file."""
    sealed: bytes
    before: int
    """Bytes of the object before its first frame."""
    bound: bytes
    """SHA-256 of these."""

    @property
    def stored(self) -> int:
        """Bytes of the whole object."""
        return self.before + sum(self.frames)


def digest_of(keyring: Keyring, data: Buffer) -> str:
    return blake3.blake3(data, key=keyring.piece_key).hexdigest()


def encode(
    keyring: Keyring, name: str, data: Buffer, *, time: dt.datetime, about: dict[str, Json], level: int = zstd.OWN
) -> bytes:
    """The bytes to store under `name`; any key will do."""
    view = memoryview(data)
    key = os.urandom(32)
    packed: list[tuple[bytes, Buffer]] = []
    for at in range(0, len(view), FRAME):
        plain = view[at : at + FRAME]
        small = zstd.compress(plain, level)
        packed.append((_ZSTD, small) if len(small) < len(plain) else (_NONE, plain))
    document = {
        **about,
        "time": iso(time),
        "digest": digest_of(keyring, view),
        "frame": FRAME,
        "frames": [1 + len(content) + 16 for _, content in packed],
    }
    head = keyring.envelope(name, json.dumps(document, sort_keys=True, separators=(",", ":")).encode())
    sealed = keyring.seal("wal", name.encode(), key)
    before = b"".join((MAGIC, struct.pack("<I", len(head)), head, struct.pack("<I", len(sealed)), sealed))
    bound, box = hashlib.sha256(before).digest(), AESGCM(key)
    out = [before]
    for number, (codec, content) in enumerate(packed):
        out += (codec, box.encrypt(number.to_bytes(12, "big"), content, bound + codec))
    return b"".join(out)


def read_head(store: Store, keyring: Keyring, name: str) -> Head:
    """From the store, without the frames. Raises Damaged, ObjectMissing, StoreError."""
    raw = store.get_range(name, 0, _FIRST_READ)
    try:
        wanted = _head_size(raw)
        if wanted > len(raw):
            raw += store.get_range(name, len(raw), wanted - len(raw))
        return _parse(keyring, name, raw)
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{name} was altered or cut short ({error})") from None


def _head_size(raw: bytes) -> int:
    """How many bytes from the beginning hold head and sealed key, as far as `raw` tells."""
    if raw[:4] != MAGIC:
        raise ValueError("no log of version 1")
    (head,) = struct.unpack_from("<I", raw, 4)
    if head > _LONGEST_HEAD:
        raise ValueError("the head is too long")
    if len(raw) < 12 + head:
        return int(12 + head + 4096)
    (sealed,) = struct.unpack_from("<I", raw, 8 + head)
    if sealed > _LONGEST_HEAD:
        raise ValueError("the key is too long")
    return int(12 + head + sealed)


def _parse(keyring: Keyring, name: str, raw: bytes) -> Head:
    (length,) = struct.unpack_from("<I", raw, 4)
    document: dict[str, Any] = json.loads(keyring.open(name, raw[8 : 8 + length]))
    (sealed,) = struct.unpack_from("<I", raw, 8 + length)
    before = 12 + length + sealed
    if len(raw) < before:
        raise ValueError("cut short")
    size = int(document["size"]) if "file" in document else int(document["end"]) - int(document["start"])
    frames, frame = tuple(int(n) for n in document.pop("frames")), int(document.pop("frame"))
    if frame < 1 or len(frames) != -(-size // frame) or size < 0:
        raise ValueError("frames that do not add up")
    return Head(
        name,
        size,
        from_iso(document.pop("time")),
        str(document.pop("digest")),
        frame,
        frames,
        document,
        raw[12 + length : before],
        before,
        hashlib.sha256(raw[:before]).digest(),
    )


class Content:
    """The plain bytes of an object, for a holder of a reader key; any range of them by itself."""

    def __init__(self, store: Store, keyring: Keyring, head: Head) -> None:
        """Raises KeyCannotRead, Damaged."""
        self.head = head
        self._store, self._keyring = store, keyring
        self._box = AESGCM(keyring.unseal("wal", head.name.encode(), head.sealed, what=head.name))

    def read(self, start: int, length: int) -> bytes:
        """Verified. Raises Damaged, ObjectMissing, StoreError."""
        head = self.head
        if start < 0 or length < 0 or start + length > head.size:
            raise ValueError(f"{head.name} has {head.size} bytes; {start} to {start + length} were asked for")
        if not length:
            return b""
        first, last = start // head.frame, (start + length - 1) // head.frame
        offset, size = head.before + sum(head.frames[:first]), sum(head.frames[first : last + 1])
        raw = memoryview(self._store.get_range(head.name, offset, size))
        if len(raw) != size:
            raise Damaged(f"{head.name} was cut short")
        plain, at = [], 0
        for number in range(first, last + 1):
            plain.append(self._frame(number, raw[at : at + head.frames[number]]))
            at += head.frames[number]
        whole = b"".join(plain)
        if first == 0 and last == len(head.frames) - 1 and digest_of(self._keyring, whole) != head.digest:
            raise Damaged(f"{head.name} does not hold the bytes that its head says")
        return whole[start - first * head.frame :][:length]

    def _frame(self, number: int, raw: memoryview) -> bytes:
        head = self.head
        codec, expected = bytes(raw[:1]), min(head.frame, head.size - number * head.frame)
        try:
            plain = self._box.decrypt(number.to_bytes(12, "big"), raw[1:], head.bound + codec)
            if codec == _ZSTD:
                plain = zstd.decompress(plain, expected)
        except InvalidTag:
            raise Damaged(f"{head.name} was altered: frame {number} does not authenticate") from None
        except ValueError as error:
            raise Damaged(f"{head.name} was altered: frame {number} ({error})") from None
        if len(plain) != expected or codec not in {_NONE, _ZSTD}:
            raise Damaged(f"{head.name} was altered: frame {number} is not as long as its head says")
        return plain
