"""Marks and sweeps: the two phases of deletion (docs/format.md, section 8)."""

from __future__ import annotations

import datetime as dt
import secrets
from dataclasses import dataclass, field

from keepwell.core.clock import iso
from keepwell.core.errors import Damaged, ObjectMissing
from keepwell.keys.keyring import Keyring
from keepwell.stores.base import Store
from keepwell.vault.documents import sign, verify


@dataclass(frozen=True)
class Mark:
    """What one prune condemned."""

    id: str
    made: dt.datetime
    """By the store's clock."""
    backups: tuple[str, ...]
    """Folders, with the slash at the end."""
    packs: tuple[str, ...]
    """SHA-256, hex."""
    indexes: tuple[str, ...]
    """Object names."""

    @property
    def name(self) -> str:
        return f"trash/{self.id}.json"

    @property
    def sweep(self) -> str:
        return f"trash/{self.id}.sweep"


@dataclass(frozen=True)
class Trash:
    marks: list[Mark] = field(default_factory=list)
    sweeping: frozenset[str] = frozenset()
    """Ids of the marks whose sweep has begun."""
    stray_sweeps: tuple[str, ...] = ()
    """Names of sweeps whose mark is gone: the sweep is over."""

    def packs(self) -> frozenset[str]:
        return frozenset(pack for mark in self.marks for pack in mark.packs)

    def sweeping_packs(self) -> frozenset[str]:
        return frozenset(pack for mark in self.marks if mark.id in self.sweeping for pack in mark.packs)

    def backups(self) -> frozenset[str]:
        return frozenset(folder for mark in self.marks for folder in mark.backups)

    def indexes(self) -> frozenset[str]:
        return frozenset(name for mark in self.marks for name in mark.indexes)


def read_trash(store: Store, keyring: Keyring) -> Trash:
    """Raises Damaged where a mark was altered: what it condemned cannot be known, so nothing may be trusted."""
    marks, sweeps = [], set()
    for info in store.list("trash/"):
        ident, dot, kind = info.name.removeprefix("trash/").partition(".")
        if dot and kind == "sweep":
            sweeps.add(ident)
        elif dot and kind == "json":
            try:
                raw = store.get(info.name)
            except ObjectMissing:  # swept between the listing and now; so are its packs
                continue
            try:
                document = verify(keyring, info.name, raw)
            except Damaged as error:
                raise Damaged(
                    error.message,
                    hint=f"Put {info.name} back from a copy of the vault. Without a copy, and while no prune runs anywhere, "
                    "delete it in the store: what it condemned is then in the list again, until the next prune.",
                ) from None
            marks.append(
                Mark(
                    ident,
                    info.modified,
                    tuple(document["backups"]),
                    tuple(document["packs"]),
                    tuple(document["indexes"]),
                )
            )
        else:
            raise Damaged(f"{info.name} is no object of a keepwell vault", hint="Move it away.")
    known = {mark.id for mark in marks}
    stray = tuple(f"trash/{ident}.sweep" for ident in sorted(sweeps - known))
    return Trash(marks, frozenset(sweeps & known), stray)


def put_mark(
    store: Store, keyring: Keyring, now: dt.datetime, *, backups: list[str], packs: list[str], indexes: list[str]
) -> str:
    """Condemns; returns the mark's id."""
    ident = secrets.token_hex(8)
    name = f"trash/{ident}.json"
    document = {"made": iso(now), "backups": sorted(backups), "packs": sorted(packs), "indexes": sorted(indexes)}
    store.put(name, sign(keyring, name, document))
    store.flush()
    return ident
