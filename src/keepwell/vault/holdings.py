"""What the packs hold, frame by frame, held against what a manifest wants from them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from keepwell.keys.keyring import Keyring
from keepwell.vault.index import PackEntry
from keepwell.vault.manifest import Manifest, StoredStream
from keepwell.vault.piece import ID_SIZE, check_of


class Holdings:
    """The piece ids of every frame, by the entries of packs. Keeps 8 bytes a frame besides the entries."""

    def __init__(self, entries: Iterable[PackEntry]) -> None:
        self._sections: dict[bytes, list[tuple[PackEntry, slice, npt.NDArray[np.int64]]]] = {}
        for entry in entries:
            begins = np.concatenate((np.zeros(1, np.int64), np.cumsum(entry.pieces, dtype=np.int64)))
            for birth, frames in entry.births():
                self._sections.setdefault(birth, []).append((entry, frames, begins))

    def ids(self, birth: bytes, number: int) -> bytes | None:
        """The ids of a frame's pieces, one after the other; None where no pack holds the frame."""
        for entry, frames, begins in self._sections.get(birth, ()):
            found = np.flatnonzero(entry.number[frames] == number)
            if len(found):
                row = frames.start + int(found[0])
                return entry.ids[ID_SIZE * int(begins[row]) : ID_SIZE * int(begins[row + 1])]
        return None

    def wrong_streams(self, keyring: Keyring, manifest: Manifest) -> list[StoredStream]:
        """The streams that want other pieces than the packs hold. Frames that no pack holds are not looked at."""
        return [s for s in manifest.streams if not self._agrees(keyring, manifest, s)]

    def _agrees(self, keyring: Keyring, manifest: Manifest, stream: StoredStream) -> bool:
        known: tuple[int, int, bytes | None] = (-1, -1, None)
        extents = stream.extents
        for pack, number, first, count, check in zip(
            extents.pack.tolist(),
            extents.frame.tolist(),
            extents.first.tolist(),
            extents.pieces.tolist(),
            extents.check.tolist(),
            strict=True,
        ):
            if known[:2] != (pack, number):
                known = (pack, number, self.ids(manifest.packs[pack][0], number))
            if known[2] is None:
                continue
            ids = known[2][ID_SIZE * first : ID_SIZE * (first + count)]
            if len(ids) != ID_SIZE * count or check_of(keyring.piece_key, ids) != check:
                return False
        return True
