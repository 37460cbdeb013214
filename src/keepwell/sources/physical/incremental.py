"""The files of an incremental base backup: which blocks they bring, and how long the file is afterwards. Pure.

Source: PostgreSQL 17, `backup/basebackup_incremental.h` and `bin/pg_combinebackup/reconstruct.c`: magic, number of blocks,
truncation block length, the block numbers, padding to a whole block where there are any, then the blocks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

MAGIC = 0xD3AE1F0D
PREFIX = "INCREMENTAL."
BLOCK = 8192
_MOST_BLOCKS = 131_072
"""Of a file: 1 GiB. A build with larger segments is refused."""
_HEAD = struct.Struct("<3I")


@dataclass(frozen=True)
class Blocks:
    numbers: npt.NDArray[np.uint32]
    """Rising."""
    shortest: int
    """The truncation block length: at the least so many blocks the file has."""

    @property
    def length(self) -> int:
        """Blocks of the whole file, as pg_combinebackup reckons."""
        return max(self.shortest, int(self.numbers[-1]) + 1 if len(self.numbers) else 0)


def runs(numbers: npt.NDArray[np.uint32]) -> Iterator[tuple[int, int, int]]:
    """Of rising block numbers those that follow each other: (index of the first, its block, behind the last block)."""
    edges = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), len(numbers)]
    for first, end in pairwise(edges if len(numbers) else []):
        yield first, int(numbers[first]), int(numbers[first]) + end - first


class HeaderReader:
    """Takes the beginning of an incremental file as it comes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._got = bytearray()

    def feed(self, data: memoryview) -> tuple[Blocks, int] | None:
        """The header, and how many bytes of `data` belong to it and its padding; None: more is needed. Raises ValueError."""
        before = len(self._got)
        want = self._want()
        while len(self._got) < want:
            taken = data[len(self._got) - before : len(self._got) - before + want - len(self._got)]
            if not taken:
                return None
            self._got += taken
            want = self._want()
        _, count, shortest = _HEAD.unpack_from(self._got)
        numbers = np.frombuffer(bytes(self._got), "<u4", count, _HEAD.size)
        if np.any(numbers[1:] <= numbers[:-1]) or (count and int(numbers[-1]) >= _MOST_BLOCKS):
            raise ValueError("the block numbers of an incremental file do not rise, or are too large")
        return Blocks(numbers, shortest), len(self._got) - before

    def _want(self) -> int:
        if len(self._got) < _HEAD.size:
            return _HEAD.size
        magic, count, shortest = _HEAD.unpack_from(self._got)
        if magic != MAGIC or count > _MOST_BLOCKS or shortest > _MOST_BLOCKS:
            raise ValueError("not the header of an incremental file")
        length: int = _HEAD.size + 4 * count
        length += -length % BLOCK if count else 0
        if length + count * BLOCK != self._size:
            raise ValueError("an incremental file is not as long as its header says")
        return length
