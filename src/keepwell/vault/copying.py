"""Keeping a second vault in step with the first: objects as they are, encrypted (docs/format.md, section 12)."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from keepwell.core.errors import Busy, Damaged, KeepwellError, ObjectExists, ObjectMissing, StoreError, UsageError
from keepwell.core.progress import Progress
from keepwell.stores.base import Store
from keepwell.stores.probe import verify_conditional_put
from keepwell.vault import config, inventory
from keepwell.vault.catalog import Backup, checksum_of, decode_metadata
from keepwell.vault.index import PackEntry, encode_index
from keepwell.vault.inventory import Needed
from keepwell.vault.layout import pack_name
from keepwell.vault.manifest import Reference, decode_references
from keepwell.vault.vault import RECOVERY, Vault

_SIDE_BY_SIDE = 4
_PART = 8 << 20


@dataclass
class CopyReport:
    """What one run brought to the far store."""

    backups: list[str] = field(default_factory=list)
    there: int = 0
    """Backups that it had already."""
    objects: int = 0
    bytes: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Backups that could not be copied, with the reason."""


def found(near: Vault, store: Store) -> None:
    """Makes the far store a vault with the same id and keys, or sees that it is one. Repeatable after a crash.

    Raises UsageError where another vault is there, UnsafeStore, StoreError.
    """
    try:
        theirs = store.get(config.NAME)
    except ObjectMissing:
        verify_conditional_put(store)
        for name in [info.name for info in near.store.list("keys/")] + list(RECOVERY):
            _put(store, name, near.store.get(name))
        store.flush()
        _put(store, config.NAME, near.config.raw)
        store.flush()
        return
    if theirs != near.config.raw:
        raise UsageError(
            f"the store {store.url} holds another vault ({config.parse(theirs).vault.hex()})",
            hint="A copy needs a place of its own: name an empty folder, bucket or prefix in [[copies]].",
        )


def copy(near: Vault, far: Vault, backups: Sequence[Backup], progress: Progress) -> CopyReport:
    """Brings backups, their proofs and the key slots to the far vault. One that fails does not hold up the others.

    Raises StoreError where a store cannot be reached, Interrupted.
    """
    return _Copy(near, far, progress).run(backups)


class _Copy:
    def __init__(self, near: Vault, far: Vault, progress: Progress) -> None:
        self.near, self.far, self.progress = near, far, progress
        self.report = CopyReport()
        self.here = inventory.packs(near.store)
        self.there = {sha256: info.size for sha256, info in inventory.packs(far.store).items()}
        self.indexed = {entry.pack for entry in far.entries()}

    def run(self, backups: Sequence[Backup]) -> CopyReport:
        self.far.prove_store()
        self._keys()
        trash = self.far.trash()
        names = {info.name for info in self.far.store.list("") if info.name.endswith("/metadata.json")}
        self.progress.begin("Copy", len(backups), "backups")
        for backup in backups:
            if backup.folder in trash.backups():
                pass  # the far vault's own retention has let it go
            elif backup.metadata in names:
                self.report.there += 1
                self._proofs(backup)
            else:
                self._backup(backup)
            self.progress.advance("Copy")
        self.progress.end("Copy")
        return self.report

    def _keys(self) -> None:
        known = {info.name for info in self.far.store.list("keys/")}
        for info in self.near.store.list("keys/"):
            if info.name not in known:
                self._bring(info.name, self.near.store.get(info.name))

    def _backup(self, backup: Backup) -> None:
        try:
            for last in (False, True):
                try:
                    self._commit(backup)
                    return
                except ObjectMissing:
                    # A prune moved or deleted what we were about to read: look again, once.
                    if last:
                        raise
                    self.here = inventory.packs(self.near.store)
        except (Damaged, ObjectMissing, Busy) as error:
            self.report.failed[str(backup.id)] = error.message
            self.progress.warn(f"{backup.id} was not copied: {error.message}")

    def _commit(self, backup: Backup) -> None:
        """In the order of every backup: packs, index, manifest, copies beside it, and last `metadata.json`."""
        near, far = self.near.store, self.far.store
        manifest, metadata = near.get(backup.manifest), near.get(backup.metadata)
        if checksum_of(manifest) != decode_metadata(self.near.keyring, backup.metadata, metadata).checksum:
            raise Damaged(f"the manifest of {backup.id} is not the one that its metadata.json names")
        wanted = self._packs_for(decode_references(self.near.keyring, backup.manifest, manifest), backup)
        self._bring_packs(wanted)
        self._bring(backup.manifest, manifest)
        for name in backup.extras:
            self._bring_big(name)
        far.flush()
        self._still_whole(wanted)
        try:
            self._bring(backup.metadata, metadata)
        except ObjectExists:
            raise Busy(f"a prune of the copy gave {backup.id} up while it was being copied") from None
        far.flush()
        self._proofs(backup)
        self.report.backups.append(str(backup.id))

    def _packs_for(self, references: list[Reference], backup: Backup) -> list[PackEntry]:
        """Packs that together hold all frames; those that the far vault has come first."""
        needed = Needed()
        needed.add(references)
        left = {birth: set(numbers.tolist()) for birth, numbers in needed.frames.items()}
        chosen: list[PackEntry] = []
        names = {reference.pack for reference in references}
        entries = inventory.entries(self.near, self.here)[0]
        for entry in sorted(entries.values(), key=lambda e: (e.pack not in names, e.pack not in self.there)):
            before = sum(map(len, left.values()))
            inventory.provided(left, entry)
            if sum(map(len, left.values())) < before:
                chosen.append(entry)
            if not left:
                return chosen
        if not left:
            return chosen
        raise Damaged(
            f"{backup.id} needs frames that no pack of {self.near.store.url} holds",
            hint="Run `keepwell check`; a copy that has the backup can bring it back (`keepwell check --repair`).",
        )

    def _bring_packs(self, wanted: list[PackEntry]) -> None:
        missing = [entry for entry in wanted if self.there.get(entry.pack) != entry.size]
        with ThreadPoolExecutor(_SIDE_BY_SIDE, "copy") as pool:
            for _ in pool.map(self._bring_pack, missing):
                pass
        self.there |= {entry.pack: entry.size for entry in missing}
        # Also those that an earlier run brought before it died.
        if new := [entry for entry in wanted if entry.pack not in self.indexed]:
            self.far.store.flush()
            name = f"index/{secrets.token_hex(16)}"
            self._bring(name, encode_index(self.far.keyring, name, new))
            self.far.store.flush()
            self.indexed |= {entry.pack for entry in new}

    def _bring_pack(self, entry: PackEntry) -> None:
        raw = inventory.whole_pack(self.near, entry)
        self._bring(pack_name(entry.pack), raw)
        # Some servers accept what they were sent wrong; a copy counts when it was read back.
        inventory.whole_pack(self.far, entry)

    def _bring(self, name: str, raw: bytes) -> None:
        _put(self.far.store, name, raw)
        self.report.objects += 1
        self.report.bytes += len(raw)

    def _bring_big(self, name: str) -> None:
        """A portable copy, which may be of some GiB: the store's own put wants it whole."""
        size = self.near.store.head(name).size
        raw = bytearray()
        while len(raw) < size:
            part = self.near.store.get_range(name, len(raw), _PART)
            if not part:
                raise Damaged(f"{name} ends before its {size} bytes")
            raw += part
        self._bring(name, bytes(raw))
        if hashlib.sha256(self.far.store.get(name)).digest() != hashlib.sha256(raw).digest():
            raise StoreError(f"{name} came to {self.far.store.url} with other bytes", hint="Try again.")

    def _proofs(self, backup: Backup) -> None:
        if not backup.proofs:
            return
        known = {info.name for info in self.far.store.list(backup.folder)}
        for name in backup.proofs:
            if name not in known:
                try:
                    self._bring(name, self.near.store.get(name))
                except KeepwellError as error:
                    self.progress.warn(f"{name} was not copied: {error.message}")

    def _still_whole(self, wanted: list[PackEntry]) -> None:
        """As every writer does before it commits (docs/format.md, section 8)."""
        going = self.far.trash().sweeping_packs()
        there = {sha256: info.size for sha256, info in inventory.packs(self.far.store).items()}
        for entry in wanted:
            if entry.pack in going or there.get(entry.pack) != entry.size:
                self.there = there
                raise Busy(
                    f"pack {entry.pack[:12]}… went away at {self.far.store.url} while it was being copied to",
                    hint="A prune runs there. Run `keepwell copy` again.",
                )


def _put(store: Store, name: str, raw: bytes) -> None:
    try:
        store.put(name, raw)
    except ObjectExists:  # from a run that died; the same bytes are no error anyway
        if store.get(name) != raw:
            raise
