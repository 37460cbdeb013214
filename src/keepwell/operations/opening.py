"""The store and the vault that a policy names."""

from __future__ import annotations

from pathlib import Path

from keepwell.core.errors import KeyMissing
from keepwell.keys.slots import Credential, Passphrase, read_key_file
from keepwell.policy.load import LoadedPolicy
from keepwell.stores import Store, open_store
from keepwell.vault.vault import Vault


def open_store_of(loaded: LoadedPolicy, *, create: bool = False) -> Store:
    """The store of the policy's vault; `create` makes the missing folder of a local one. Raises StoreError."""
    vault = loaded.policy.vault
    return open_store(vault.store, vault.store_options(loaded.base), create=create)


def open_vault(loaded: LoadedPolicy, *, key_file: Path | None = None) -> Vault:
    """The vault, opened with `key_file`, else with the key that the policy names.

    Raises the VaultKeyError family, StoreError (also where there is no vault), Damaged, UnsupportedFormat.
    """
    return Vault.open(open_store_of(loaded), credential_of(loaded, key_file=key_file))


def credential_of(loaded: LoadedPolicy, *, key_file: Path | None = None) -> Credential:
    """Raises KeyMissing, KeyWrong."""
    key = loaded.policy.vault.key
    file = key_file or key.file
    if file is not None:
        return read_key_file(file)
    assert key.passphrase is not None  # the policy has exactly one of the two
    return Passphrase(key.passphrase.resolve(loaded.base, what="the passphrase of the vault", error=KeyMissing))
