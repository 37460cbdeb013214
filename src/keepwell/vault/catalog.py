"""The backups of a vault: their metadata, their proofs, and how a person may name them."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from keepwell.core import zstd
from keepwell.core.clock import UTC, from_iso, iso
from keepwell.core.errors import BackupNotFound, Damaged, UsageError
from keepwell.core.streams import Json
from keepwell.keys.keyring import Keyring
from keepwell.vault.documents import sign, verify
from keepwell.vault.layout import BackupId, parse_id, parse_name

Status: TypeAlias = Literal["complete", "incomplete", "abandoned"]


@dataclass(frozen=True)
class Backup:
    """One committed backup, as its metadata.json tells."""

    id: BackupId
    tier: str
    time: dt.datetime
    status: Status
    size: int
    """Bytes that it added to the store."""
    document: dict[str, Json] = field(repr=False)
    proofs: tuple[str, ...] = ()
    """Names of its proof objects, oldest first."""
    extras: tuple[str, ...] = ()
    """Names of other objects in its folder: portable copies."""
    proven: bool = False
    """See `is_proven`."""

    @property
    def folder(self) -> str:
        return self.id.folder(self.tier)

    @property
    def manifest(self) -> str:
        return self.folder + "manifest"

    @property
    def metadata(self) -> str:
        return self.folder + "metadata.json"

    @property
    def checksum(self) -> str:
        return str(self.document["checksum"])


@dataclass(frozen=True)
class Proof:
    """The record of one proof. `details` is what `verify` prints as JSON, and more."""

    backup: str
    checksum: str
    time: dt.datetime
    level: str
    passed: bool
    summary: str
    details: dict[str, Json] = field(default_factory=dict, repr=False)
    """`whole` False: not all sources were looked at."""
    name: str = ""

    @property
    def counts(self) -> bool:
        """Whether it proves the backup: everything in it was restored and compared, and was right."""
        return self.passed and self.level != "objects" and self.details.get("whole") is not False


def is_proven(backup: Backup, proofs: Sequence[Proof]) -> bool:
    """By the proofs, oldest first: one that counts, and none since then that failed. An incomplete backup never is."""
    if backup.status != "complete":
        return False
    for proof in reversed(proofs):
        if not proof.passed or proof.checksum != backup.checksum:
            return False
        if proof.counts:
            return True
    return False


def decode_metadata(keyring: Keyring, name: str, raw: bytes) -> Backup:
    """Raises Damaged."""
    placed = parse_name(name)
    document = verify(keyring, name, raw)
    if placed is None or document.get("backup") != str(placed.id) or document.get("tier") != placed.tier:
        raise Damaged(f"{name} is the metadata of another backup")
    try:
        return Backup(
            placed.id, placed.tier, from_iso(document["timestamp"]), document["status"], int(document["size"]), document
        )
    except (KeyError, ValueError) as error:
        raise Damaged(f"{name} lacks {error}") from None


def encode_proof(keyring: Keyring, backup: Backup, proof: Proof) -> tuple[str, bytes]:
    """The name and the bytes of a proof object."""
    stamp = proof.time.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"{backup.folder}proof-{stamp}-{secrets.token_hex(2)}.json"
    details = keyring.envelope(name, zstd.compress(json.dumps(proof.details).encode(), 3))
    document = {
        "backup": str(backup.id),
        "checksum": backup.checksum,
        "time": iso(proof.time),
        "level": proof.level,
        "passed": proof.passed,
        "summary": proof.summary,
        "details": base64.b64encode(details).decode(),
    }
    return name, sign(keyring, name, document)


def decode_proof(keyring: Keyring, name: str, raw: bytes) -> Proof:
    """Raises Damaged."""
    document: dict[str, Any] = verify(keyring, name, raw)
    try:
        details = json.loads(zstd.decompress(keyring.open(name, base64.b64decode(document["details"]))))
        return Proof(
            document["backup"],
            document["checksum"],
            from_iso(document["time"]),
            document["level"],
            document["passed"] is True,
            document["summary"],
            details,
            name,
        )
    except (KeyError, ValueError) as error:
        raise Damaged(f"{name} was altered ({error})") from None


def resolve(text: str, backups: Iterable[Backup]) -> Backup:
    """The backup that `text` names.

    `production/20261122T020003Z-7f3a`, `production@latest`, `production@proven`, `production@2026-11-22` (the newest of that
    day, UTC), or `production` (its latest). Raises BackupNotFound, UsageError.
    """
    known = sorted(backups, key=lambda b: b.id)
    if "/" in text:
        wanted = parse_id(text)
        for backup in known:
            if backup.id == wanted:
                return backup
        raise BackupNotFound(f"there is no backup {text} in the vault", hint=_what_there_is(known, wanted.environment))
    environment, _, which = text.partition("@")
    mine = [b for b in known if b.id.environment == environment]
    if not mine:
        raise BackupNotFound(
            f"there is no backup of environment {environment!r} in the vault", hint=_what_there_is(known, environment)
        )
    if which in {"", "latest"}:
        return mine[-1]
    if which == "proven":
        proven = [b for b in mine if b.proven]
        if not proven:
            raise BackupNotFound(
                f"no backup of {environment} is proven yet",
                hint=f"`keepwell verify {environment}@latest` restores the latest one and compares.",
            )
        return proven[-1]
    try:
        day = dt.date.fromisoformat(which)
    except ValueError:
        raise UsageError(
            f"{text!r} names no backup: what follows @ is latest, proven, or a day such as 2026-11-22"
        ) from None
    that_day = [b for b in mine if b.time.date() == day]
    if not that_day:
        raise BackupNotFound(f"{environment} has no backup of {day}", hint=_what_there_is(known, environment))
    return that_day[-1]


def _what_there_is(known: list[Backup], environment: str) -> str:
    mine = [b for b in known if b.id.environment == environment]
    if mine:
        return f"The oldest is {mine[0].id}, the newest {mine[-1].id}; `keepwell list {environment}` shows all."
    if known:
        names = ", ".join(sorted({b.id.environment for b in known}))
        return f"The vault has backups of: {names}."
    return "The vault has no backups yet; `keepwell backup` takes one."


def checksum_of(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
