"""Key slots: `keys/<slot>.json`, each wrapping the vault's secrets for one passphrase or key file."""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keepwell.core.errors import Damaged, KeyMissing, KeyWrong
from keepwell.core.secrets import Secret
from keepwell.keys import crypto
from keepwell.keys.keyring import Keyring, Role

ARGON2 = {"memory_kib": 64 * 1024, "passes": 3, "lanes": 4}
"""The second recommended parameter set of RFC 9106, section 4."""

Kind: TypeAlias = Literal["passphrase", "keyfile"]


@dataclass(frozen=True)
class Passphrase:
    """A credential that a person remembers."""

    text: Secret


@dataclass(frozen=True)
class KeyFile:
    """A credential in a file."""

    vault: str
    slot: str
    secret: bytes = field(repr=False)
    path: Path | None = None

    def render(self) -> str:
        body = f"keepwell-key-1:{self.vault}:{self.slot}:{base64.b64encode(self.secret).decode()}"
        return (
            "# keepwell key file. Whoever has it opens the vault; without it (and without a passphrase slot)\n"
            "# the backups cannot be read by anyone. Keep a copy away from this machine and from the vault.\n"
            f"{body}\n"
        )


Credential: TypeAlias = Passphrase | KeyFile


@dataclass(frozen=True)
class Slot:
    """What everybody may see of a slot."""

    id: str
    kind: Kind
    role: Role
    label: str
    created: str


def wrap(keyring: Keyring, credential: Credential, *, slot: Slot, vault_json: str) -> bytes:
    """The content of `keys/<slot>.json`. `vault_json` is the SHA-256 (hex) of vault.json."""
    salt = os.urandom(16)
    nonce = os.urandom(12)
    payload: dict[str, str] = {"vault_json": vault_json, "writer": _b64(keyring.writer)}
    if slot.role == "reader":
        if keyring.private is None:
            raise KeyMissing(
                "a reader slot needs a reader key to be made from", hint="Open the vault with a reader key."
            )
        payload["private"] = _b64(keyring.private)
    kdf: dict[str, Any] = {"salt": _b64(salt)}
    if slot.kind == "passphrase":
        kdf |= {"name": "argon2id"} | ARGON2
    else:
        kdf |= {"name": "hkdf-sha256"}
    body = json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()
    sealed = AESGCM(_kek(credential, kdf)).encrypt(nonce, body, _bound(keyring.vault, slot.id))
    document = {
        "keepwell_slot": 1,
        "slot": slot.id,
        "kind": slot.kind,
        "role": slot.role,
        "label": slot.label,
        "created": slot.created,
        "kdf": kdf,
        "nonce": _b64(nonce),
        "sealed": _b64(sealed),
    }
    document["mac"] = keyring.mac(f"keys/{slot.id}.json", _canonical(document))
    return _render(document)


def describe(name: str, raw: bytes) -> Slot:
    """The public part. Raises Damaged where it is no slot."""
    doc = _document(name, raw)
    return Slot(doc["slot"], doc["kind"], doc["role"], doc["label"], doc["created"])


def verify(name: str, raw: bytes, keyring: Keyring) -> None:
    """Whether the slot is as a key holder made it, for slots whose own credential is not at hand. Raises Damaged."""
    doc = _document(name, raw)
    claimed = str(doc.pop("mac", ""))
    if not crypto.same(claimed, keyring.mac(name, _canonical(doc))):
        raise Damaged(f"{name} was altered", hint="Remove it with `keepwell key remove` and add a new slot.")


def unwrap(name: str, raw: bytes, credential: Credential, *, vault: bytes, public: bytes, vault_json: str) -> Keyring:
    """The secrets of one slot.

    Raises KeyWrong where the credential does not fit, Damaged where vault.json is not the one that the slot was made for.
    """
    doc = _document(name, raw)
    try:
        kek = _kek(credential, doc["kdf"])
        body = AESGCM(kek).decrypt(_unb64(doc["nonce"]), _unb64(doc["sealed"]), _bound(vault, doc["slot"]))
    except InvalidTag:
        kind = "passphrase" if isinstance(credential, Passphrase) else "key file"
        raise KeyWrong(
            f"the {kind} does not open slot {doc['slot']} of the vault",
            hint="Check that it belongs to this vault. If you are sure that it does, the slot object "
            f"{name} was altered: restore it from a copy, or use another slot.",
        ) from None
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise Damaged(f"{name} was altered: {error}") from None
    payload = json.loads(body)
    if payload["vault_json"] != vault_json:
        raise Damaged(
            "vault.json is not the one that this key was made for: it was altered or replaced",
            hint="Do not back up into this vault before you know why: a replaced public key would let a stranger "
            "read new backups. Put the original vault.json back (a copy of the vault has it).",
        )
    private = _unb64(payload["private"]) if "private" in payload else None
    keyring = Keyring(vault, public, _unb64(payload["writer"]), private, doc["slot"])
    if keyring.role != doc["role"]:
        raise Damaged(f"{name} was altered: it says {doc['role']} but holds a {keyring.role} key")
    verify(name, raw, keyring)
    return keyring


def read_key_file(path: Path) -> KeyFile:
    """Raises KeyMissing, KeyWrong."""
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        raise KeyMissing(
            f"the key file {path} does not exist",
            hint="Put the vault's key file there, or name another with --key-file. If the vault is new, "
            "`keepwell init` makes both.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise KeyMissing(f"the key file {path} cannot be read: {error}", hint="Check its owner and mode.") from None
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    parts = lines[0].strip().split(":") if len(lines) == 1 else []
    try:
        mark, vault, slot, secret = parts
        if mark != "keepwell-key-1" or len(_unb64(secret)) != 32:
            raise ValueError(mark)
    except (ValueError, binascii.Error):
        raise KeyWrong(f"{path} is not a keepwell key file", hint="It must hold one line keepwell-key-1:…") from None
    return KeyFile(vault, slot, _unb64(secret), path)


def write_key_file(path: Path, key: KeyFile) -> None:
    """Creates the file, readable by its owner only; never overwrites. Raises KeyMissing where it cannot."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    except FileExistsError:
        raise KeyMissing(
            f"{path} exists already and is not overwritten",
            hint="If it is the key of another vault, name another file; if it is left from an attempt, move it away.",
        ) from None
    except OSError as error:
        raise KeyMissing(
            f"the key file {path} cannot be written: {error.strerror}", hint="Name another place."
        ) from None
    with os.fdopen(fd, "w") as file:
        file.write(key.render())
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _kek(credential: Credential, kdf: dict[str, Any]) -> bytes:
    salt = _unb64(kdf["salt"])
    if isinstance(credential, KeyFile):
        return crypto.derive(credential.secret, salt, "keyfile")
    memory, passes, lanes = int(kdf["memory_kib"]), int(kdf["passes"]), int(kdf["lanes"])
    # A tampered slot must not make us allocate a machine's memory.
    if not (8 * lanes <= memory <= 4 * 1024 * 1024 and 1 <= passes <= 64 and 1 <= lanes <= 64):
        raise ValueError("key derivation parameters are out of range")
    return crypto.stretch(credential.text.reveal(), salt, memory_kib=memory, passes=passes, lanes=lanes)


def _bound(vault: bytes, slot: str) -> bytes:
    return b"keepwell/1/slot" + vault + slot.encode()


def _document(name: str, raw: bytes) -> dict[str, Any]:
    try:
        doc = json.loads(raw)
        if doc["keepwell_slot"] != 1 or name != f"keys/{doc['slot']}.json":
            raise ValueError("unexpected slot id or version")
        if doc["kind"] not in {"passphrase", "keyfile"} or doc["role"] not in {"reader", "writer"}:
            raise ValueError("unknown kind or role")
        if _render(doc) != bytes(raw):
            raise ValueError("not as keepwell writes it")
        _ = (doc["label"], doc["created"], doc["kdf"]["salt"], doc["nonce"], doc["sealed"])
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{name} is no key slot, or was altered: {error}") from None
    return dict(doc)


def _canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _render(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unb64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
