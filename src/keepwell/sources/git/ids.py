"""Many object ids in little memory: sorted, one after the other."""

from __future__ import annotations

import heapq
from collections.abc import Iterator


class Ids:
    """`width` bytes each: 20, or 32 in repositories with SHA-256."""

    def __init__(self, width: int, data: bytes = b"") -> None:
        self.width, self.data = width, data

    def __len__(self) -> int:
        return len(self.data) // self.width

    def __iter__(self) -> Iterator[bytes]:
        for at in range(0, len(self.data), self.width):
            yield self.data[at : at + self.width]

    def __contains__(self, ident: bytes) -> bool:
        return self.find(ident) >= 0

    def find(self, ident: bytes) -> int:
        """Its place in the order; -1 where it is not there."""
        low, high, width = 0, len(self), self.width
        while low < high:
            middle = (low + high) // 2
            at = self.data[middle * width : middle * width + width]
            if at == ident:
                return middle
            low, high = (middle + 1, high) if at < ident else (low, middle)
        return -1

    def joined(self, other: Ids) -> Ids:
        """Both, where none is in both."""
        if not len(self) or not len(other):
            return other if not len(self) else self
        return Ids(self.width, b"".join(heapq.merge(self, other)))
