"""The backups' folders in one listing: what is committed, given up, unfinished, condemned, or damaged."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

from keepwell.core.errors import Damaged, ObjectMissing
from keepwell.stores.base import ObjectInfo, Store
from keepwell.vault import layout
from keepwell.vault.catalog import Backup, DamagedBackup, decode_metadata, doubt_of, is_proven
from keepwell.vault.layout import Placed, parse_name

if TYPE_CHECKING:
    from keepwell.vault.vault import Vault

_Found: TypeAlias = Backup | DamagedBackup | None


@dataclasses.dataclass
class Catalogue:
    """What the backups' folders hold. One altered object costs the backup it belongs to, and no other."""

    backups: list[Backup]
    """Committed and not condemned, oldest first."""
    abandoned: list[Backup]
    uncommitted: list[ObjectInfo]
    """Manifests without `metadata.json`."""
    condemned: list[Backup]
    damaged: list[DamagedBackup]
    """Not condemned, and their `metadata.json` cannot be believed; oldest first."""

    @classmethod
    def of(cls, vault: Vault, environment: str | None, *, with_proofs: bool) -> Catalogue:
        trash = vault.trash()
        folders: dict[str, list[ObjectInfo]] = {}
        places: dict[str, Placed] = {}
        for info in _backup_objects(vault.store, environment):
            placed = parse_name(info.name)
            if placed is not None:
                folder = placed.id.folder(placed.tier)
                folders.setdefault(folder, []).append(info)
                places[folder] = placed
        # Threads are for waiting on the store; what the cache has is decoded twice as fast without them.
        far = [item for item in folders.items() if not vault.has_at_hand(info.name for info in item[1])]
        made: dict[str, _Found] = {}
        if far:
            with ThreadPoolExecutor(8, "catalogue") as pool:
                found = pool.map(lambda item: _backup(vault, places[item[0]], item[1], with_proofs=with_proofs), far)
                made = {folder: backup for (folder, _), backup in zip(far, found, strict=True)}
        result = cls([], [], [], [], [])
        for folder, objects in sorted(folders.items()):
            if folder in made:
                backup = made[folder]
            else:
                backup = _backup(vault, places[folder], objects, with_proofs=with_proofs)
            if backup is None:
                if folder not in trash.backups():
                    result.uncommitted += [info for info in objects if info.name == folder + "manifest"]
            elif isinstance(backup, DamagedBackup):
                if folder not in trash.backups():
                    result.damaged.append(backup)
            elif folder in trash.backups():
                result.condemned.append(backup)
            elif backup.status == "abandoned":
                result.abandoned.append(backup)
            else:
                result.backups.append(backup)
        result.backups.sort(key=lambda b: b.id)
        result.damaged.sort(key=lambda b: b.id)
        return result


def _backup_objects(store: Store, environment: str | None) -> Iterator[ObjectInfo]:
    if environment is not None:
        yield from store.list(f"{environment}/")
        return
    for info in store.list(""):
        if info.name.partition("/")[0] not in layout.RESERVED:
            yield info


def _backup(vault: Vault, placed: Placed, objects: Iterable[ObjectInfo], *, with_proofs: bool) -> _Found:
    folder = placed.id.folder(placed.tier)
    names = [info.name for info in objects]
    name = folder + "metadata.json"
    if name not in names:
        return None
    try:
        raw = vault.fetch(name)
        try:
            backup = decode_metadata(vault.keyring, name, raw)
        except Damaged:  # the cache, or the store?
            vault.forget(name)
            backup = decode_metadata(vault.keyring, name, vault.fetch(name))
    except ObjectMissing:  # deleted between the listing and now
        return None
    except Damaged as error:
        return DamagedBackup(placed.id, placed.tier, error.message)
    proofs = tuple(sorted(n for n in names if n.startswith(folder + "proof-")))
    extras = tuple(sorted(set(names) - {name, backup.manifest} - set(proofs)))
    backup = dataclasses.replace(backup, proofs=proofs, extras=extras)
    if not with_proofs:
        return backup
    found = vault.proofs(backup)
    return dataclasses.replace(backup, proven=is_proven(backup, found), doubt=doubt_of(backup, found))
