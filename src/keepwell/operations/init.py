"""A new policy, vault and key; and the same again without touching what is there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from keepwell.core.errors import KeepwellError, KeyMissing
from keepwell.core.newfile import new_file
from keepwell.core.streams import Context, Json
from keepwell.keys.slots import Passphrase
from keepwell.operations.opening import open_store_of, open_vault
from keepwell.operations.record import first_entry
from keepwell.policy.load import LoadedPolicy, parse
from keepwell.policy.template import Answers, render
from keepwell.stores import Store
from keepwell.vault.vault import Vault


@dataclass(frozen=True)
class InitResult:
    policy: Path
    policy_written: bool
    store: str
    vault: str
    vault_created: bool
    role: str
    key_file: Path | None
    passphrase: str
    """Where the passphrase is to be found, as the policy says; empty with a key file."""

    def json(self) -> dict[str, Json]:
        key: dict[str, Json] = {"role": self.role}
        key |= {"kind": "keyfile", "file": str(self.key_file)} if self.key_file else {"kind": "passphrase"}
        return {
            "policy": str(self.policy),
            "policy_written": self.policy_written,
            "store": self.store,
            "vault": self.vault,
            "vault_created": self.vault_created,
            "key": key,
        }


def write_policy(path: Path, answers: Answers) -> None:
    """A new keepwell.toml.

    Raises TargetNotEmpty where there is one, PolicyError or UsageError where the answers make none, SourceError.
    """
    text = render(answers)
    parse(text, path)
    with new_file(path) as file:
        file.write(text.encode())


def init(loaded: LoadedPolicy, context: Context, *, policy_written: bool = False) -> InitResult:
    """The vault and the key that the policy names, each only where it is missing.

    Where the vault exists, the key must open it. Raises the VaultKeyError and StoreError families.
    """
    store = open_store_of(loaded, create=True)
    created = not Vault.exists(store)
    vault = _create(loaded, store, context) if created else open_vault(loaded)
    if created:
        try:
            first_entry(loaded, context, vault, "init")
        except KeepwellError as error:  # the vault is there, and the next action says it again
            context.progress.warn(f"that the vault was made is not in its audit log: {error.message}")
    key = loaded.policy.vault.key
    return InitResult(
        loaded.path,
        policy_written,
        store.url,
        vault.id,
        created,
        vault.keyring.role,
        key.file,
        str(key.passphrase or ""),
    )


def _create(loaded: LoadedPolicy, store: Store, context: Context) -> Vault:
    key, now = loaded.policy.vault.key, context.clock.now()
    if key.file is None:
        assert key.passphrase is not None
        secret = key.passphrase.resolve(loaded.base, what="the passphrase of the vault", error=KeyMissing)
        return Vault.create(store, now=now, passphrase=Passphrase(secret))
    if os.path.lexists(key.file):
        raise KeyMissing(
            f"the key file {key.file} exists, but there is no vault at {store.url}",
            hint="A key file belongs to one vault. If the vault is elsewhere, correct `store` in the policy; for a new "
            "vault name another key file. Do not delete this one: it may be the only key of another vault.",
        )
    try:
        key.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise KeyMissing(
            f"the folder of the key file {key.file} cannot be made: {error.strerror}",
            hint="Name another place for the key in [vault] key.",
        ) from None
    return Vault.create(store, now=now, key_file=key.file)
