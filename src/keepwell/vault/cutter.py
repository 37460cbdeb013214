"""Cutting a stream into pieces, so that equal content gives equal pieces wherever it stands."""

from __future__ import annotations

from typing import Protocol

import pyfastcdc

from keepwell.core.streams import Buffer, Cut
from keepwell.keys.keyring import Keyring
from keepwell.vault.piece import PAGE

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
