"""What pieces are called (docs/format.md, section 4)."""

from __future__ import annotations

from itertools import accumulate

import blake3

ID_SIZE = 16
PAGE = 8192
"""Streams that are cut in pages have pieces of this size."""


def identify(key: bytes, view: memoryview, lengths: list[int]) -> list[bytes]:
    """The ids of consecutive pieces: the first 16 bytes of keyed BLAKE3."""
    make = blake3.blake3
    ends = zip(accumulate(lengths), lengths, strict=True)
    return [make(view[end - length : end], key=key).digest(ID_SIZE) for end, length in ends]


def check_of(key: bytes, ids: bytes) -> int:
    """An extent's check over the ids of its pieces, one after the other."""
    return int.from_bytes(blake3.blake3(ids, key=key).digest(8), "little")
