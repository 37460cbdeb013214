"""The ways into a vault: slots for passphrases and key files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from keepwell.core.clock import Clock
from keepwell.core.errors import KeyCannotRead, KeyMissing
from keepwell.core.secrets import Secret
from keepwell.core.streams import Json
from keepwell.keys.keyring import Role
from keepwell.keys.slots import Passphrase, Slot
from keepwell.operations.opening import open_vault
from keepwell.policy.load import LoadedPolicy
from keepwell.vault.vault import Vault


@dataclass(frozen=True)
class KeyInfo:
    """A slot, and whether it is the one that this run opened."""

    slot: Slot
    in_use: bool
    file: Path | None = None
    """The key file just written."""

    def json(self) -> dict[str, Json]:
        slot = self.slot
        document: dict[str, Json] = {
            "slot": slot.id,
            "kind": slot.kind,
            "role": slot.role,
            "label": slot.label,
            "created": slot.created,
            "in_use": self.in_use,
        }
        return document | {"file": str(self.file)} if self.file else document


def key_list(loaded: LoadedPolicy) -> list[KeyInfo]:
    vault = open_vault(loaded)
    return [KeyInfo(slot, slot.id == vault.keyring.slot) for slot in vault.key_slots()]


def key_add(
    loaded: LoadedPolicy,
    credential: Secret | Path,
    *,
    clock: Clock,
    role: Role = "reader",
    label: str = "",
) -> KeyInfo:
    """A new slot for a passphrase, or in a new key file at the path.

    Raises KeyMissing where the file exists or cannot be written, KeyCannotRead where a writer key would have to make a
    reader.
    """
    vault = open_vault(loaded)
    _refuse_more_than_we_are(vault, role)
    if isinstance(credential, Path):
        slot = vault.add_slot(credential.absolute(), role=role, label=label, now=clock.now())
        return KeyInfo(slot, in_use=False, file=credential.absolute())
    slot = vault.add_slot(Passphrase(credential), role=role, label=label, now=clock.now())
    return KeyInfo(slot, in_use=False)


def key_remove(loaded: LoadedPolicy, ident: str) -> KeyInfo:
    """Raises KeyMissing where there is no such slot, KeyWrong where no reader would be left."""
    vault = open_vault(loaded)
    known = {slot.id: slot for slot in vault.key_slots()}
    vault.remove_slot(ident)
    return KeyInfo(known[ident], ident == vault.keyring.slot)


def _refuse_more_than_we_are(vault: Vault, role: Role) -> None:
    if role == "reader" and vault.keyring.role == "writer":
        raise KeyCannotRead(
            f"slot {vault.keyring.slot} holds a writer key: it cannot make a key that reads",
            hint="Run this where the reader key is, or add a writer: --role writer.",
        )


def refuse_existing_key(path: Path) -> None:
    """Before a passphrase is asked or a vault is touched. Raises KeyMissing."""
    if path.exists() or path.is_symlink():
        raise KeyMissing(
            f"{path} exists already and is not overwritten", hint="Name a file that does not exist, or move it away."
        )
