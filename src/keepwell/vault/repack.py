"""Moving live frames out of mostly dead packs, as they are: no key but a writer's is needed, no manifest changes."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from keepwell.core.errors import Damaged
from keepwell.keys.keyring import Keyring
from keepwell.vault.index import PackEntry, Section
from keepwell.vault.pack import MAGIC, sections, trailer

SECTION = struct.Struct("<16sI")
"""What stands before each sealed key in a pack's head."""


@dataclass
class _Birth:
    sealed: bytes
    number: list[int] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)
    ids: list[list[bytes]] = field(default_factory=list)


class Repacker:
    """Collects frames; `finish` makes a pack of them with one section a birth id."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._births: dict[bytes, _Birth] = {}
        self.size = 0

    def add(self, entry: PackEntry, rows: list[int], raw: bytes) -> None:
        """Frames of one whole, verified pack."""
        what = f"pack {entry.pack}"
        keys = dict(sections(raw, what=what))
        begins = [0, *entry.pieces.cumsum().tolist()]
        for birth, frames in entry.births():
            mine = [row for row in rows if frames.start <= row < frames.stop]
            if not mine:
                continue
            if birth not in keys:
                raise Damaged(f"{what} does not hold the section that its index entry names")
            if birth not in self._births:
                self._births[birth] = _Birth(keys[birth])
                self.size += SECTION.size + len(keys[birth])
            held = self._births[birth]
            for row in mine:
                offset, length = int(entry.offset[row]), int(entry.length[row])
                held.number.append(int(entry.number[row]))
                # A copy: a view would keep all of a mostly dead pack in memory.
                held.frames.append(raw[offset : offset + length])
                held.ids.append([entry.ids[16 * i : 16 * i + 16] for i in range(begins[row], begins[row + 1])])
                self.size += length

    def finish(self) -> tuple[memoryview, PackEntry]:
        """The object and its index entry."""
        head = struct.pack("<4sBBH", MAGIC, 1, 0, len(self._births))
        for birth, held in self._births.items():
            head += SECTION.pack(birth, len(held.sealed)) + held.sealed
        buffer = bytearray(head)
        number, offset, length, pieces, ids = [], [], [], [], []
        for name, frame, found in self._ordered():
            number.append(name)
            offset.append(len(buffer))
            length.append(len(frame))
            pieces.append(len(found))
            ids += found
            buffer += frame
        parts = [Section(birth, len(held.number)) for birth, held in self._births.items()]
        entry = PackEntry.of("", 0, parts, number, offset, length, pieces, b"".join(ids))
        buffer += trailer(self._keyring, entry)
        return memoryview(buffer), entry.named(hashlib.sha256(buffer).hexdigest(), len(buffer))

    def _ordered(self) -> Iterator[tuple[int, bytes, list[bytes]]]:
        for held in self._births.values():
            yield from sorted(zip(held.number, held.frames, held.ids, strict=True), key=lambda frame: frame[0])
