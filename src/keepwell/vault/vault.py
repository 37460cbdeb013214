"""A vault: what operations call. The work is done by the modules beside this one."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import os
import threading
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from keepwell.core import zstd
from keepwell.core.clock import iso
from keepwell.core.errors import Damaged, KeyMissing, KeyWrong, ObjectExists, ObjectMissing, StoreError
from keepwell.core.streams import Facts, Json
from keepwell.keys import crypto, slots
from keepwell.keys.keyring import Keyring, Role
from keepwell.stores.base import Store
from keepwell.stores.probe import verify_conditional_put
from keepwell.vault import config, layout
from keepwell.vault.cache import ObjectCache, cache_folder
from keepwell.vault.catalog import (
    Backup,
    Proof,
    checksum_of,
    decode_metadata,
    decode_proof,
    encode_proof,
    resolve,
    unreadable_proof,
)
from keepwell.vault.config import VaultConfig
from keepwell.vault.folders import Catalogue
from keepwell.vault.layout import PACK_SIZE, pack_name, parse_name
from keepwell.vault.trash import Trash, read_trash

if TYPE_CHECKING:
    from keepwell.vault.index import PackEntry
    from keepwell.vault.manifest import Manifest
    from keepwell.vault.mirrors import Mirrors
    from keepwell.vault.reader import Elsewhere, Location, StreamReader
    from keepwell.vault.session import Session
    from keepwell.vault.wal import WalArchive

# Modules that need NumPy are imported where they are used: a listing needs none of them, and they take a third of a second.

RECOVERY = ("recover.py", "RECOVERY.md")


class BackupReader:
    """One backup, opened with a reader key."""

    def __init__(self, vault: Vault, backup: Backup, manifest: Manifest) -> None:
        from keepwell.vault.reader import PackKeys

        self.backup, self.manifest = backup, manifest
        self._vault = vault
        self._keys = PackKeys(vault.store, vault.keyring)

    @property
    def sources(self) -> dict[str, dict[str, Json]]:
        """Per source: `status`, `facts`, and `error` where it failed."""
        return dict(self.manifest.about["sources"])

    def facts(self, source: str) -> Facts:
        return dict(self.sources[source]["facts"])

    def streams(self, source: str, jobs: int = 2) -> StreamReader:
        from keepwell.vault.reader import StreamReader

        return StreamReader(
            self._vault.store,
            self._vault.keyring,
            self.manifest,
            source,
            keys=self._keys,
            locate=self._vault.locate,
            jobs=jobs,
            elsewhere=self._vault.elsewhere,
        )


class Vault:
    """An opened vault. Safe to use from several threads."""

    def __init__(self, store: Store, configuration: VaultConfig, keyring: Keyring, cache: ObjectCache) -> None:
        self.store, self.config, self.keyring, self._cache = store, configuration, keyring, cache
        self._proved_store = False
        self._locating = threading.Lock()
        self._places: dict[bytes, list[tuple[PackEntry, slice]]] | None = None
        self._mirrors: Mirrors | None = None
        self.anchor: dict[str, Json] | None = None
        """The entry of the audit log that this run has begun with: its backups say so in their metadata."""

    def stand_in(self, mirrors: Mirrors) -> None:
        """Copies of this vault that give what it cannot give any more."""
        self._mirrors = mirrors

    @property
    def elsewhere(self) -> Elsewhere | None:
        return self._mirrors.frame if self._mirrors else None

    @staticmethod
    def exists(store: Store) -> bool:
        try:
            store.head(config.NAME)
        except ObjectMissing:
            return False
        return True

    @classmethod
    def create(
        cls,
        store: Store,
        *,
        now: dt.datetime,
        passphrase: slots.Passphrase | None = None,
        key_file: Path | None = None,
        cache: Path | None = None,
    ) -> Vault:
        """A new vault with one reader slot, for the passphrase or in a new key file.

        Raises ObjectExists where the store holds a vault, UnsafeStore where the store overwrites, KeyMissing where the
        key file exists or cannot be written. The key file is written before the vault appears.
        """
        credential = passphrase or key_file
        if credential is None or (passphrase and key_file):
            raise ValueError("exactly one of passphrase and key_file")
        verify_conditional_put(store)
        ident, private = os.urandom(16), crypto.new_private()
        public = crypto.public_of(private)
        recovery = {name: _recovery(name) for name in RECOVERY}
        configuration = config.new(
            ident, public, iso(now), {name: hashlib.sha256(raw).hexdigest() for name, raw in recovery.items()}
        )
        if cls.exists(store):
            raise ObjectExists(
                f"there is a vault at {store.url} already",
                hint="Nothing was changed. To use it, give its key; for a new one, name another place.",
            )
        keyring = Keyring(ident, public, os.urandom(32), private)
        vault = cls(store, configuration, keyring, ObjectCache(cache or cache_folder(ident)))
        slot = vault.add_slot(credential, role="reader", label="first", now=now)
        vault.keyring = dataclasses.replace(keyring, slot=slot.id)
        for name, raw in recovery.items():
            # Left from an `init` that died, or from a vault that was removed: equal bytes are no error.
            store.put(name, raw)
        store.flush()
        store.put(config.NAME, configuration.raw)
        store.flush()
        vault._proved_store = True
        return vault

    @classmethod
    def open(cls, store: Store, credential: slots.Credential, *, cache: Path | None = None) -> Vault:
        """Raises KeyWrong, KeyMissing, Damaged, StoreError (also where there is no vault), UnsupportedFormat."""
        try:
            configuration = config.parse(store.get(config.NAME))
        except ObjectMissing:
            raise StoreError(
                f"there is no vault at {store.url}",
                hint="Check the address in [vault] of the policy. If this is a new vault: `keepwell init`.",
            ) from None
        keyring = _open_slot(store, configuration, credential)
        folder = cache or cache_folder(configuration.vault)
        return cls(store, configuration, keyring, ObjectCache(folder))

    @property
    def id(self) -> str:
        return self.config.vault.hex()

    # Keys

    def key_slots(self) -> list[slots.Slot]:
        return [slots.describe(info.name, self.store.get(info.name)) for info in self.store.list("keys/")]

    def add_slot(self, credential: slots.Passphrase | Path, *, role: Role, label: str, now: dt.datetime) -> slots.Slot:
        """A further way in: for a passphrase, or in a new key file at the path. Raises KeyMissing."""
        kind: slots.Kind = "keyfile" if isinstance(credential, Path) else "passphrase"
        slot = slots.Slot(os.urandom(6).hex(), kind, role, label, iso(now))
        opener: slots.Credential
        if isinstance(credential, Path):
            opener = slots.KeyFile(self.id, slot.id, os.urandom(32))
            slots.write_key_file(credential, opener)
        else:
            opener = credential
        raw = slots.wrap(self.keyring, opener, slot=slot, vault_json=self.config.sha256)
        self.store.put(f"keys/{slot.id}.json", raw)
        self.store.flush()
        return slot

    def remove_slot(self, ident: str) -> None:
        """Raises KeyMissing where there is no such slot, KeyWrong where no reader would be left."""
        known = self.key_slots()
        if ident not in {slot.id for slot in known}:
            raise KeyMissing(f"there is no key slot {ident}", hint="`keepwell key list` shows them.")
        if not any(slot.role == "reader" and slot.id != ident for slot in known):
            raise KeyWrong(
                f"slot {ident} is the last one that can read the vault: without it all backups would be lost",
                hint="Add another reader slot first: `keepwell key add`.",
            )
        self.store.delete(f"keys/{ident}.json")

    # Reading

    def backups(self, environment: str | None = None) -> list[Backup]:
        """Committed backups, oldest first, without those that a prune condemned or that are damaged (see `scan`)."""
        self.config.require("read")
        return self.scan(environment).backups

    def find(self, text: str) -> Backup:
        """See `catalog.resolve`."""
        self.config.require("read")
        environment = text.partition("@")[0].partition("/")[0]
        found = self.scan(environment) if environment else None
        if found is None or not (found.backups or found.damaged):
            found = self.scan()
        return resolve(text, found.backups, found.damaged)

    def read(self, backup: Backup) -> BackupReader:
        """Raises Damaged, KeyCannotRead."""
        try:
            return self._read(backup)
        except (Damaged, StoreError) as error:
            found = self._mirrors and self._mirrors.read(backup, error)
            if not found:
                raise
            return found

    def _read(self, backup: Backup) -> BackupReader:
        self.config.require("read")
        try:
            # Listings may come from the cache; what is about to be restored must be what the store holds.
            stored = decode_metadata(self.keyring, backup.metadata, self.store.get(backup.metadata))
        except ObjectMissing:
            raise Damaged(
                f"the metadata.json of {backup.id} is missing from the store",
                hint="The backup was deleted, or damaged. Use another (`keepwell list`) or a copy of the vault.",
            ) from None
        try:
            raw = self.store.get(backup.manifest)
        except ObjectMissing:
            raise Damaged(
                f"the manifest of {backup.id} is missing from the store",
                hint="This backup cannot be restored from this vault. Use another (`keepwell list`) or a copy.",
            ) from None
        if checksum_of(raw) != stored.checksum:
            raise Damaged(
                f"the manifest of {backup.id} does not have the checksum that metadata.json says",
                hint="It was altered or cut short. Use another backup or a copy of the vault; `keepwell check` "
                "looks for more damage.",
            )
        from keepwell.vault.manifest import decode

        return BackupReader(self, backup, decode(self.keyring, backup.manifest, str(backup.id), raw))

    def proofs(self, backup: Backup) -> list[Proof]:
        """Oldest first. What cannot be read stands among them as a proof that did not pass (`unreadable`)."""
        found = [proof for name in backup.proofs if (proof := self._proof(backup, name)) is not None]
        return sorted(found, key=lambda p: (p.time, p.name))

    def record(self, backup: Backup, proof: Proof) -> str:
        """Keeps a proof beside its backup; returns the object's name."""
        name, raw = encode_proof(self.keyring, backup, proof)
        self.store.put(name, raw)
        self.store.flush()
        return name

    def locate(self, birth: bytes, number: int, *, anew: bool = False) -> Location | None:
        """Where a frame is now, by the index, else by what the packs say of themselves.

        What was found is kept; `anew` looks again, since a prune may have moved the frame once more.
        """
        from keepwell.vault import inventory
        from keepwell.vault.reader import Location

        with self._locating:
            if anew or self._places is None:
                self._places = inventory.places(self)
            places = self._places
        for entry, frames in places.get(birth, ()):
            at = (entry.number[frames] == number).nonzero()[0]
            if len(at):
                row = frames.start + int(at[0])
                return Location(entry.pack, int(entry.offset[row]), int(entry.length[row]))
        return None

    # The log of PostgreSQL clusters

    def wal(self, environment: str, source: str, system: str, *, level: int = zstd.OWN) -> WalArchive:
        """The log of one cluster, by its system identifier; `level` as for `begin`."""
        from keepwell.vault.wal import WalArchive

        return WalArchive(self, environment, source, system, level=level)

    def wal_systems(self, environment: str, source: str) -> list[str]:
        """The clusters of a source that there is log of. A server that was made anew is another cluster."""
        from keepwell.vault.wal import systems

        return systems(self, environment, source)

    # Writing

    def begin(
        self,
        *,
        environment: str,
        tier: str,
        now: dt.datetime,
        level: int = zstd.OWN,
        jobs: int = 2,
        pack_size: int = PACK_SIZE,
    ) -> Session:
        """A new backup. Raises UnsafeStore, UnsupportedFormat, Damaged, StoreError."""
        self.config.require("write")
        if parse_name(layout.new_id(environment, now).folder(tier) + "manifest") is None:
            raise ValueError(f"{environment!r} and {tier!r} cannot be an environment and a tier of a vault")
        self.prove_store()
        trash = read_trash(self.store, self.keyring)
        condemned = trash.packs()
        there = {info.name: info for info in self.store.list("packs/")}
        entries = [
            entry
            for entry in self.entries()
            if entry.pack not in condemned
            and (pack := there.get(pack_name(entry.pack))) is not None
            and pack.size == entry.size
        ]
        # Of a piece that is there twice the later one is used: it was stored anew to lie with its neighbours.
        entries.sort(key=lambda entry: there[pack_name(entry.pack)].modified)
        there_are = self.scan(environment, with_proofs=False)
        previous = sorted([b.id for b in there_are.backups] + [b.id for b in there_are.damaged])
        from keepwell.vault.session import Session, Snapshot

        snapshot = Snapshot(entries, previous[-1] if previous else None)
        return Session(
            self.store,
            self.keyring,
            snapshot,
            environment=environment,
            tier=tier,
            now=now,
            level=level,
            jobs=jobs,
            pack_size=pack_size,
            anchor=self.anchor,
        )

    def prove_store(self) -> None:
        """Once a process, before the first write. Raises UnsafeStore."""
        if not self._proved_store:
            verify_conditional_put(self.store)
            self._proved_store = True

    # What the modules beside this one need

    def entries(self) -> list[PackEntry]:
        """The index, each pack once. Raises Damaged."""
        names = [info.name for info in self.store.list("index/")]
        self._cache.keep_only("index/", set(names))
        found: dict[str, PackEntry] = {}
        for name in names:
            for entry in self._index(name):
                found.setdefault(entry.pack, entry)
        return list(found.values())

    def _index(self, name: str) -> list[PackEntry]:
        from keepwell.vault.index import decode_index

        cached = self._cache.get(name)
        if cached is not None:
            try:
                return decode_index(self.keyring, name, cached)
            except Damaged:
                self._cache.drop(name)
        try:
            raw = self.store.get(name)
        except ObjectMissing:  # a prune has just replaced it; what it adds is a loss of deduplication only
            return []
        try:
            entries = decode_index(self.keyring, name, raw)
        except Damaged as error:
            raise Damaged(
                error.message,
                hint=f"Delete {name} in the store: an index only says where things are, the packs say it too, and "
                "`keepwell prune` then writes it anew.",
            ) from None
        self._cache.put(name, raw)
        return entries

    def trash(self) -> Trash:
        return read_trash(self.store, self.keyring)

    def scan(self, environment: str | None = None, *, with_proofs: bool = True) -> Catalogue:
        """One listing of the backups' folders; those whose metadata was altered are in `damaged`."""
        return Catalogue.of(self, environment, with_proofs=with_proofs)

    def _proof(self, backup: Backup, name: str) -> Proof | None:
        """None where it was deleted since the listing."""
        try:
            try:
                return decode_proof(self.keyring, name, self.fetch(name))
            except Damaged:  # the cache, or the store?
                self.forget(name)
                return decode_proof(self.keyring, name, self.fetch(name))
        except Damaged as error:
            return unreadable_proof(backup, name, error.message)
        except ObjectMissing:
            return None

    def fetch(self, name: str) -> bytes:
        """A small immutable object, through the cache. Raises ObjectMissing where the store does not have it."""
        cached = self._cache.get(name)
        if cached is None:
            cached = self.store.get(name)
            self._cache.put(name, cached)
        return cached

    def has_at_hand(self, names: Iterable[str]) -> bool:
        """Whether the cache has all of these that a listing reads."""
        return all(self._cache.has(name) for name in names if name.endswith(".json"))

    def forget(self, name: str) -> None:
        self._cache.drop(name)


def _open_slot(store: Store, configuration: VaultConfig, credential: slots.Credential) -> Keyring:
    names = [info.name for info in store.list("keys/")]
    if isinstance(credential, slots.KeyFile):
        if credential.vault != configuration.vault.hex():
            raise KeyWrong(
                f"the key file {credential.path or ''} belongs to another vault",
                hint=f"It opens vault {credential.vault}; the one at {store.url} is {configuration.vault.hex()}.",
            )
        wanted = f"keys/{credential.slot}.json"
        if wanted not in names:
            raise KeyMissing(
                f"the vault has no slot {credential.slot} for this key file",
                hint="The slot was removed (`keepwell key remove`) or lost. Use another key or passphrase.",
            )
        names = [wanted]
    wrong: KeyWrong | Damaged | None = None
    for name in names:
        try:
            raw = store.get(name)
            kind = slots.describe(name, raw).kind
            if (kind == "keyfile") != isinstance(credential, slots.KeyFile):
                continue
            return slots.unwrap(
                name,
                raw,
                credential,
                vault=configuration.vault,
                public=configuration.public,
                vault_json=configuration.sha256,
            )
        except ObjectMissing:  # removed between the listing and now
            continue
        except (KeyWrong, Damaged) as error:
            # Another slot may open: one altered object must not shut everybody out. Damage is told first.
            wrong = error if wrong is None or isinstance(error, Damaged) else wrong
    raise wrong or KeyMissing(
        "the vault has no passphrase slot", hint="Open it with a key file ([vault] key = { file = … })."
    )


def _recovery(name: str) -> bytes:
    return resources.files("keepwell.vault").joinpath("rescue", name).read_bytes()
