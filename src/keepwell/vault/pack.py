"""Packs (docs/format.md, section 4)."""

from __future__ import annotations

import hashlib
import os
import struct
import threading

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keepwell.core import zstd
from keepwell.core.buffers import anonymous
from keepwell.core.errors import Damaged
from keepwell.core.streams import Buffer
from keepwell.keys.keyring import Keyring
from keepwell.vault.frame import FRAME_SIZE, Payload, seal_frame
from keepwell.vault.index import PackEntry, Section, decode_entry, encode_entry
from keepwell.vault.layout import PACK_SIZE

MAGIC, END = b"KWPK", b"KWPE"
_HEAD = struct.Struct("<4sBBH")


class PackBuilder:
    """A new pack while it fills. `reserve` is called under the session's lock; `fill` from any thread."""

    def __init__(self, keyring: Keyring, target: int = PACK_SIZE) -> None:
        self.birth = os.urandom(16)
        self._keyring = keyring
        key = os.urandom(32)
        self._box = AESGCM(key)
        sealed = keyring.seal("pack", self.birth, key)
        head = _HEAD.pack(MAGIC, 1, 0, 1) + self.birth + struct.pack("<I", len(sealed)) + sealed
        # At the beginning of a page of memory, so that stores can write it as it lies; and not filled with zeros first.
        self._buffer = anonymous(target + 4 * FRAME_SIZE)
        self._buffer[: len(head)] = head
        self._end = len(head)
        self._target = target
        self._offsets: list[int] = []
        self._lengths: list[int] = []
        self._pieces: list[int] = []
        self._ids: list[bytes] = []
        self._lock = threading.Lock()
        self._unfilled = 0
        self._sealed = False

    @property
    def full(self) -> bool:
        return self._end >= self._target

    @property
    def frames(self) -> int:
        return len(self._offsets)

    def reserve(self, stored: int, ids: list[bytes]) -> tuple[int, int]:
        """A place for a frame: its number, and the offset of its header."""
        number, offset = len(self._offsets), self._end
        self._offsets.append(offset)
        self._lengths.append(stored)
        self._pieces.append(len(ids))
        self._ids.extend(ids)
        self._end += stored
        with self._lock:
            self._unfilled += 1
        if self._end > len(self._buffer):
            raise ValueError("a frame is larger than frames can be")
        return number, offset

    def fill(self, number: int, offset: int, payload: Payload) -> bool:
        """Encrypts the frame into its place. True where this was the last frame of a sealed pack."""
        room = memoryview(self._buffer)[offset : offset + payload.stored]
        seal_frame(self._box, self._keyring.vault, self.birth, number, payload, room)
        with self._lock:
            self._unfilled -= 1
            return self._sealed and self._unfilled == 0

    def seal(self) -> bool:
        """No more frames. True where all are filled already, so that the caller must finish the pack."""
        with self._lock:
            self._sealed = True
            return self._unfilled == 0

    def finish(self) -> tuple[memoryview, PackEntry]:
        """The object and its index entry."""
        entry = PackEntry.of(
            "",
            0,
            [Section(self.birth, len(self._offsets))],
            range(len(self._offsets)),
            self._offsets,
            self._lengths,
            self._pieces,
            b"".join(self._ids),
        )
        tail = trailer(self._keyring, entry)
        end = self._end + len(tail)
        if end <= len(self._buffer):
            self._buffer[self._end : end] = tail
            view = memoryview(self._buffer)[:end]
        else:  # very many tiny pieces
            view = memoryview(self._buffer[: self._end] + tail)
        return view, entry.named(hashlib.sha256(view).hexdigest(), end)


def trailer(keyring: Keyring, entry: PackEntry) -> bytes:
    """What stands at the end of a pack: its entry, by which it can be read without an index."""
    sealed = keyring.envelope(trailer_name(entry.sections[0].birth), zstd.compress(encode_entry(entry.named("", 0)), 3))
    return sealed + struct.pack("<I", len(sealed)) + END


def trailer_name(birth: bytes) -> str:
    return f"trailer/{birth.hex()}"


def sections(head: Buffer, *, what: str) -> list[tuple[bytes, bytes]]:
    """Birth ids and sealed keys from the beginning of a pack. Raises Damaged."""
    try:
        magic, version, flags, count = _HEAD.unpack_from(head)
        if magic != MAGIC or version != 1 or flags != 0 or not count:
            raise ValueError("no pack of version 1")
        found, at = [], _HEAD.size
        for _ in range(count):
            birth = bytes(head[at : at + 16])
            (length,) = struct.unpack_from("<I", head, at + 16)
            sealed = bytes(head[at + 20 : at + 20 + length])
            if len(sealed) != length:
                raise ValueError("cut short")
            found.append((birth, sealed))
            at += 20 + length
    except (struct.error, ValueError) as error:
        raise Damaged(f"the head of {what} was altered or cut short ({error})") from None
    return found


HEAD_GUESS = 2048
"""Bytes that hold the head of a pack with one section; more sections need more."""


def head_size(sections_count: int) -> int:
    """An upper bound of a head's size."""
    return _HEAD.size + sections_count * 1300


def read_trailer(keyring: Keyring, name: str, size: int, tail: Buffer, head: Buffer) -> PackEntry | int:
    """The pack's entry from its last bytes; or how many last bytes are needed, where `tail` is too short.

    Raises Damaged.
    """
    if len(tail) < 8 or bytes(tail[-4:]) != END:
        raise Damaged(f"{name} is cut short: its end is missing")
    (length,) = struct.unpack_from("<I", tail, len(tail) - 8)
    if length + 8 > size:
        raise Damaged(f"{name} was altered: its trailer is longer than the object")
    if length + 8 > len(tail):
        return int(length) + 8
    first = sections(head, what=name)[0][0]
    plain = keyring.open(trailer_name(first), memoryview(tail)[len(tail) - 8 - length : len(tail) - 8])
    try:
        entry = decode_entry(zstd.decompress(plain))
    except ValueError as error:
        raise Damaged(f"the trailer of {name} was altered ({error})") from None
    return entry.named(name.rsplit("/", 1)[-1], size)
