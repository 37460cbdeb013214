"""Copies of a vault that stand in for it, opened when they are first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from keepwell.core.errors import Damaged, KeepwellError, StoreError
from keepwell.vault.catalog import Backup
from keepwell.vault.frame import open_frame
from keepwell.vault.layout import pack_name
from keepwell.vault.reader import Location, PackKeys
from keepwell.vault.vault import BackupReader, Vault


class Mirrors:
    """Safe to use from several threads. `notice` is told once of every object for which a copy stood in."""

    def __init__(self, opened: Callable[[], Iterable[Vault]], notice: Callable[[str], None]) -> None:
        self._opened, self._notice = opened, notice
        self._vaults: list[tuple[Vault, PackKeys]] | None = None
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def frame(self, birth: bytes, number: int, place: Location) -> tuple[list[int], memoryview] | None:
        """From the same place in the same pack, or where the copy's index says."""
        for vault, keys in self._all():
            try:
                for known in (place, vault.locate(birth, number)):
                    if known is None:
                        continue
                    try:
                        raw = memoryview(vault.store.get_range(pack_name(known.pack), known.offset, known.length))
                        box = keys.box(birth, known.pack)
                        found = open_frame(
                            box, vault.keyring.vault, birth, number, raw, what=f"{pack_name(known.pack)} of the copy"
                        )
                    except (Damaged, StoreError):
                        continue
                    self._tell(pack_name(place.pack), vault)
                    return found
            except (Damaged, StoreError):
                continue
        return None

    def read(self, backup: Backup, error: KeepwellError) -> BackupReader | None:
        for vault, _ in self._all():
            try:
                found = vault.read(backup)
            except (Damaged, StoreError):
                continue
            self._notice(f"{error.message}. Using the copy at {vault.store.url} instead.")
            return found
        return None

    def _tell(self, name: str, vault: Vault) -> None:
        with self._lock:
            if name in self._told:
                return
            self._told.add(name)
        self._notice(f"{name} cannot be used; its data came from the copy at {vault.store.url}")

    def _all(self) -> list[tuple[Vault, PackKeys]]:
        with self._lock:
            if self._vaults is None:
                self._vaults = [(vault, PackKeys(vault.store, vault.keyring)) for vault in self._opened()]
            return self._vaults
