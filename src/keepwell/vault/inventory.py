"""What is in the store and who needs it: the common ground of `check` and `prune`."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from keepwell.core.errors import Damaged, ObjectMissing
from keepwell.stores.base import ObjectInfo, Store
from keepwell.vault.index import U32, PackEntry
from keepwell.vault.layout import pack_name, parse_name
from keepwell.vault.manifest import Reference, decode_references, references_size
from keepwell.vault.pack import HEAD_GUESS, head_size, read_trailer

if TYPE_CHECKING:
    from keepwell.vault.vault import Vault

_TAIL = 64 << 10
_REFERENCES = 64 << 10


@dataclass
class Needed:
    """The frames that some manifests refer to, by birth id."""

    frames: dict[bytes, U32] = field(default_factory=dict)

    def add(self, references: Iterable[Reference]) -> None:
        for reference in references:
            before = self.frames.get(reference.birth)
            self.frames[reference.birth] = (
                reference.numbers if before is None else np.union1d(before, reference.numbers).astype("<u4")
            )

    def rows(self, entry: PackEntry) -> list[int]:
        """The places in the entry's columns whose frames are needed."""
        found: list[int] = []
        for birth, frames in entry.births():
            wanted = self.frames.get(birth)
            if wanted is not None:
                found += (np.flatnonzero(np.isin(entry.number[frames], wanted)) + frames.start).tolist()
        return found


def packs(store: Store) -> dict[str, ObjectInfo]:
    """By SHA-256 (the name's last part)."""
    return {info.name.rsplit("/", 1)[-1]: info for info in store.list("packs/")}


def manifests(store: Store) -> list[ObjectInfo]:
    """All manifests, committed or not."""
    found = []
    for info in store.list(""):
        placed = parse_name(info.name)
        if placed is not None and placed.file == "manifest":
            found.append(info)
    return found


def references(vault: Vault, info: ObjectInfo) -> list[Reference]:
    """What a manifest needs, read with any key and without reading all of it. Raises Damaged, ObjectMissing."""
    raw = vault.store.get_range(info.name, 0, _REFERENCES)
    size = references_size(info.name, raw)
    if len(raw) < size <= info.size:
        raw = vault.store.get_range(info.name, 0, size)
    return decode_references(vault.keyring, info.name, raw)


def trailer(vault: Vault, info: ObjectInfo) -> PackEntry:
    """A pack's own description of itself. Raises Damaged, ObjectMissing."""
    head = vault.store.get_range(info.name, 0, HEAD_GUESS)
    if len(head) == HEAD_GUESS and (count := struct.unpack_from("<H", head, 6)[0]) > 1:
        head = vault.store.get_range(info.name, 0, head_size(count))
    size = min(_TAIL, info.size)
    while True:
        tail = vault.store.get_range(info.name, info.size - size, size)
        found = read_trailer(vault.keyring, info.name, info.size, tail, head)
        if isinstance(found, PackEntry):
            return found
        size = found


def entries(vault: Vault, there: dict[str, ObjectInfo]) -> tuple[dict[str, PackEntry], list[PackEntry]]:
    """Entries of the packs that are there, by pack: from the index, else from their trailers; and the latter ones.

    Raises Damaged where a trailer was altered.
    """
    known = {e.pack: e for e in vault.entries() if e.pack in there and there[e.pack].size == e.size}
    unindexed = []
    for sha256, info in there.items():
        if sha256 not in known:
            try:
                entry = trailer(vault, info)
            except ObjectMissing:
                continue
            except Damaged as error:
                raise Damaged(
                    f"{info.name} is damaged ({error.message}) and no index knows what it holds; it was left as it is.",
                    hint=f"Put {info.name} back from a copy of the vault. Without a copy: `keepwell check` names the backups "
                    "that cannot be restored without it; where it names none it is garbage. Delete it in the store by "
                    "hand and run this again.",
                ) from None
            known[sha256] = entry
            unindexed.append(entry)
    return known, unindexed


def places(vault: Vault) -> dict[bytes, list[tuple[PackEntry, slice]]]:
    """Birth id -> the packs that hold frames of it, and where these stand in the entry's columns. Raises Damaged."""
    found: dict[bytes, list[tuple[PackEntry, slice]]] = {}
    for entry in entries(vault, packs(vault.store))[0].values():
        for birth, frames in entry.births():
            found.setdefault(birth, []).append((entry, frames))
    return found


def provided(needed: dict[bytes, set[int]], entry: PackEntry) -> None:
    """Takes out of `needed` what this pack provides."""
    for birth, frames in entry.births():
        if birth in needed:
            needed[birth].difference_update(entry.number[frames].tolist())
            if not needed[birth]:
                del needed[birth]


def numbers(entry: PackEntry, rows: list[int]) -> dict[bytes, set[int]]:
    """Birth id -> frame numbers, of some rows of an entry."""
    found: dict[bytes, set[int]] = {}
    for birth, frames in entry.births():
        mine = {int(entry.number[row]) for row in rows if frames.start <= row < frames.stop}
        if mine:
            found[birth] = mine
    return found


def whole_pack(vault: Vault, entry: PackEntry) -> bytes:
    """A pack's bytes, which must be those of its name. Raises Damaged, ObjectMissing."""
    from hashlib import sha256

    raw = vault.store.get(pack_name(entry.pack))
    if sha256(raw).hexdigest() != entry.pack:
        raise Damaged(f"{pack_name(entry.pack)} was altered: its content does not have the SHA-256 that its name says")
    return raw
