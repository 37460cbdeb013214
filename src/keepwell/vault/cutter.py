"""Cutting a stream into pieces, so that equal content gives equal pieces wherever it stands."""

from __future__ import annotations

from itertools import accumulate
from typing import Protocol

import blake3
import pyfastcdc

from keepwell.core.streams import Buffer, Cut
from keepwell.keys.keyring import Keyring

ID_SIZE = 16
PAGE = 8192
AVERAGE, LEAST, MOST = 16384, 4096, 65536


class Cutter(Protocol):
    def cut(self, block: Buffer, *, final: bool) -> list[int]:
        """Lengths of the pieces from the start of the block; unless `final`, what is left over wants more bytes."""
        ...


class ContentCutter:
    """FastCDC with the vault's secret seed."""

    def __init__(self, seed: int) -> None:
        self._chunker = pyfastcdc.FastCDC(AVERAGE, min_size=LEAST, max_size=MOST, normalized_chunking=2, seed=seed)

    def cut(self, block: Buffer, *, final: bool) -> list[int]:
        lengths = [chunk.length for chunk in self._chunker.cut_buf(block)]
        # The last piece ended with the block, not at a place that the content chose.
        if not final and lengths:
            lengths.pop()
        return lengths


class PageCutter:
    def cut(self, block: Buffer, *, final: bool) -> list[int]:
        whole, rest = divmod(len(block), PAGE)
        return [PAGE] * whole + ([rest] if final and rest else [])


def cutter(cut: Cut, keyring: Keyring) -> Cutter:
    return PageCutter() if cut == "pages" else ContentCutter(keyring.seed)


def identify(key: bytes, view: memoryview, lengths: list[int]) -> list[bytes]:
    """The ids of consecutive pieces: the first 16 bytes of keyed BLAKE3."""
    make = blake3.blake3
    ends = zip(accumulate(lengths), lengths, strict=True)
    return [make(view[end - length : end], key=key).digest(ID_SIZE) for end, length in ends]


def check_of(key: bytes, ids: bytes) -> int:
    """An extent's check over the ids of its pieces, one after the other."""
    return int.from_bytes(blake3.blake3(ids, key=key).digest(8), "little")
