"""Putting back from a copy what a check found missing or altered."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from keepwell.core.errors import Damaged, KeepwellError, ObjectMissing, StoreError
from keepwell.core.streams import Finding
from keepwell.keys import slots
from keepwell.vault import audit, config
from keepwell.vault.catalog import checksum_of, decode_metadata, decode_proof
from keepwell.vault.index import decode_index
from keepwell.vault.layout import parse_name
from keepwell.vault.vault import RECOVERY, Vault


@dataclass
class RepairReport:
    repaired: dict[str, str] = field(default_factory=dict)
    """Object -> the store that it came from."""
    left: dict[str, str] = field(default_factory=dict)
    """Object -> why it could not be put back."""


def repair(vault: Vault, findings: Iterable[Finding], mirrors: Iterable[Vault]) -> RepairReport:
    """Every object that a finding names is looked at again, and where it is still bad, taken from the first copy that has
    it whole. A damaged object is deleted only when its good bytes are at hand; a crash between the two leaves it missing,
    which the next repair mends.
    """
    report, far = RepairReport(), list(mirrors)
    for name in dict.fromkeys(finding.what for finding in findings):
        try:
            there: bytes | None = vault.store.get(name)
        except ObjectMissing:
            there = None
        except StoreError as error:
            report.left[name] = error.message
            continue
        if there is not None and _is_whole(vault, name, there):
            continue
        found = _whole_copy(vault, name, far)
        if found is None:
            report.left[name] = "no copy has it whole under this name"
            continue
        raw, where = found
        try:
            if there is not None:
                vault.store.delete(name)
            vault.store.put(name, raw)
            vault.store.flush()
            vault.forget(name)
            report.repaired[name] = where
        except StoreError as error:
            report.left[name] = error.message
    return report


def _whole_copy(vault: Vault, name: str, mirrors: Iterable[Vault]) -> tuple[bytes, str] | None:
    for mirror in mirrors:
        try:
            raw = mirror.store.get(name)
        except (StoreError, Damaged):
            continue
        if _is_whole(vault, name, raw):
            return raw, mirror.store.url
    return None


def _is_whole(vault: Vault, name: str, raw: bytes) -> bool:
    """Whether these bytes can be the object. An object whose kind cannot be judged is never replaced."""
    keyring, top = vault.keyring, name.partition("/")[0]
    placed = parse_name(name)
    try:
        if top == "packs":
            return hashlib.sha256(raw).hexdigest() == name.rsplit("/", 1)[-1]
        if top == "index":
            decode_index(keyring, name, raw)
        elif top == "keys":
            slots.verify(name, raw, keyring)
        elif name == config.NAME:
            return raw == vault.config.raw
        elif name in RECOVERY:
            return hashlib.sha256(raw).hexdigest() == vault.config.recovery.get(name)
        elif audit.number_of(name) is not None:
            audit.decode(keyring, name, raw)
        elif placed is not None and placed.file == "metadata.json":
            decode_metadata(keyring, name, raw)
        elif placed is not None and placed.file == "manifest":
            return _is_manifest(vault, name, raw)
        elif placed is not None and placed.file.startswith("proof-"):
            decode_proof(keyring, name, raw)
        elif placed is not None:
            return _is_portable(vault, name, raw)
        else:
            return False
    except KeepwellError:
        return False
    return True


def _is_manifest(vault: Vault, name: str, raw: bytes) -> bool:
    metadata = name.removesuffix("manifest") + "metadata.json"
    return checksum_of(raw) == decode_metadata(vault.keyring, metadata, vault.store.get(metadata)).checksum


def _is_portable(vault: Vault, name: str, raw: bytes) -> bool:
    folder, _, file = name.rpartition("/")
    metadata = f"{folder}/metadata.json"
    backup = decode_metadata(vault.keyring, metadata, vault.store.get(metadata))
    expected = dict(backup.document.get("portable") or {}).get(file)
    return expected is not None and hashlib.sha256(raw).hexdigest() == expected["sha256"]
