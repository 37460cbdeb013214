"""Frames: the units of compression and encryption in packs (docs/format.md, section 4)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keepwell.core import zstd
from keepwell.core.buffers import gathered
from keepwell.core.errors import Damaged
from keepwell.core.streams import Buffer

FRAME_SIZE = 512 << 10
"""Bytes of pieces in a frame: large enough to compress well, small enough to be decoded for a single table or file."""
MOST_PIECES = 4096
"""Pieces in a frame, so that a frame of tiny files stays a frame."""
FRAME_HEADER = struct.Struct("<IIBBH16sI")
OVERHEAD = FRAME_HEADER.size + 16
"""Header and tag: what a frame adds to its compressed bytes."""
_NO_BASE = (bytes(16), 0)
_ZSTD = 1


@dataclass(frozen=True)
class Payload:
    """A frame after compression, before encryption."""

    data: Buffer
    raw: int
    codec: int

    @property
    def stored(self) -> int:
        return len(self.data) + OVERHEAD


def compress(lengths: Sequence[int], pieces: Sequence[Buffer], level: int) -> Payload:
    head = struct.pack(f"<I{len(lengths)}I", len(lengths), *lengths)
    raw = gathered([head, *pieces])
    small = zstd.compress(raw, level)
    return Payload(small, len(raw), _ZSTD) if len(small) < len(raw) else Payload(bytes(raw), len(raw), 0)


def seal_frame(box: AESGCM, vault: bytes, birth: bytes, number: int, payload: Payload, room: memoryview) -> None:
    """Header and encrypted bytes, into room for exactly as many."""
    head = FRAME_HEADER.pack(len(payload.data) + 16, payload.raw, payload.codec, 0, 0, *_NO_BASE)
    room[: len(head)] = head
    box.encrypt_into(_nonce(number), payload.data, _bound(vault, birth, number, head), room[len(head) :])


def open_frame(
    box: AESGCM, vault: bytes, birth: bytes, number: int, frame: memoryview, *, what: str
) -> tuple[list[int], memoryview]:
    """The lengths of the pieces, and their bytes. Raises Damaged."""
    try:
        length, raw, codec, flags, zero, base, base_frame = FRAME_HEADER.unpack_from(frame)
        if length + FRAME_HEADER.size != len(frame) or flags or zero or (base, base_frame) != _NO_BASE or codec > _ZSTD:
            raise ValueError("unexpected header")
        head = bytes(frame[: FRAME_HEADER.size])
        plain = box.decrypt(_nonce(number), frame[FRAME_HEADER.size :], _bound(vault, birth, number, head))
        if codec == _ZSTD:
            plain = zstd.decompress(plain, raw)
        elif len(plain) != raw:
            raise ValueError("wrong length")
        (count,) = struct.unpack_from("<I", plain)
        lengths = list(struct.unpack_from(f"<{count}I", plain, 4))
        data = memoryview(plain)[4 + 4 * count :]
        if sum(lengths) != len(data):
            raise ValueError("lengths do not add up")
    except InvalidTag:
        raise Damaged(f"frame {number} of {what} was altered: its authentication tag does not match") from None
    except (struct.error, ValueError) as error:
        raise Damaged(f"frame {number} of {what} was altered or cut short ({error})") from None
    return lengths, data


def starts(lengths: list[int]) -> list[int]:
    return [0, *accumulate(lengths)]


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _bound(vault: bytes, birth: bytes, number: int, head: bytes) -> bytes:
    return vault + birth + struct.pack("<I", number) + head
