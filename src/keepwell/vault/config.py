"""vault.json: what a vault says of itself, written once."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from keepwell.core.errors import Damaged, UnsupportedFormat
from keepwell.keys.crypto import KEM_NAME
from keepwell.vault.documents import render

NAME = "vault.json"
FORMAT = 1
KNOWN: dict[str, frozenset[str]] = {"read": frozenset(), "write": frozenset(), "delete": frozenset()}
"""The features that this program understands, per class of operation."""


@dataclass(frozen=True)
class VaultConfig:
    vault: bytes
    public: bytes
    created: str
    features: dict[str, list[str]]
    recovery: dict[str, str]
    """SHA-256 (hex) of the recovery objects."""
    raw: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()

    def require(self, operation: str) -> None:
        """`operation` is read, write or delete. Raises UnsupportedFormat."""
        unknown = sorted(set(self.features.get(operation, ())) - KNOWN[operation])
        if unknown:
            raise UnsupportedFormat(
                f"this vault has features that this keepwell does not know and must not {operation}: {', '.join(unknown)}",
                hint="Update keepwell on this machine, from where it was installed, and try again. Nothing was changed.",
            )


def new(vault: bytes, public: bytes, created: str, recovery: dict[str, str]) -> VaultConfig:
    document = {
        "format": FORMAT,
        "vault": vault.hex(),
        "created": created,
        "features": {"read": [], "write": [], "delete": []},
        "kem": KEM_NAME,
        "public": base64.b64encode(public).decode(),
        "recovery": recovery,
        "text": "This is a keepwell vault: encrypted backups. RECOVERY.md says how to get the data back. Do not change or "
        "delete anything here by hand.",
    }
    return parse(render(document))


def parse(raw: bytes) -> VaultConfig:
    """Raises Damaged, UnsupportedFormat."""
    try:
        doc: dict[str, Any] = json.loads(raw)
        if doc["format"] != FORMAT:
            raise UnsupportedFormat(
                f"this vault has format {doc['format']}; this keepwell knows format {FORMAT}", hint="Update keepwell."
            )
        if doc["kem"] != KEM_NAME:
            raise UnsupportedFormat(
                f"this vault seals with {doc['kem']}, which this keepwell does not know", hint="Update keepwell."
            )
        vault, public = bytes.fromhex(doc["vault"]), base64.b64decode(doc["public"], validate=True)
        if len(vault) != 16 or len(public) != 1216:
            raise ValueError("wrong length")
        return VaultConfig(vault, public, doc["created"], doc["features"], doc["recovery"], raw)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(
            f"vault.json is not what keepwell wrote ({error})",
            hint="Every key slot carries its checksum: put the original back from a copy of the vault.",
        ) from None
