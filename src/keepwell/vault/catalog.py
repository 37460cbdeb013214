"""The backups of a vault: their metadata, their proofs, and how a person may name them."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import hashlib
import json
import re
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

_PROOF_NAME = re.compile(r"proof-(\d{8}T\d{6}Z)-[0-9a-f]+\.json")
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
    doubt: str = ""
    """Name of the proof object that cannot be read and leaves open whether the backup is proven."""
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
class DamagedBackup:
    """A backup whose `metadata.json` was altered or cut short: only its name is known, and that it was committed."""

    id: BackupId
    tier: str
    message: str
    """What is wrong with the object."""

    @property
    def folder(self) -> str:
        return self.id.folder(self.tier)

    @property
    def time(self) -> dt.datetime:
        return self.id.time


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
    unreadable: bool = False
    """The object was altered or cut short. It could have said that the proof failed, so it counts as one that did."""

    @property
    def counts(self) -> bool:
        """Whether it proves the backup: everything in it was restored and compared, and was right."""
        return self.passed and self.level != "objects" and self.details.get("whole") is not False


def is_proven(backup: Backup, proofs: Sequence[Proof]) -> bool:
    """By the proofs, oldest first: one that counts, and none since then that failed or cannot be read.

    An incomplete backup never is.
    """
    deciding = _deciding(backup, proofs)
    return deciding is not None and deciding.passed


def doubt_of(backup: Backup, proofs: Sequence[Proof]) -> str:
    """Name of the proof that leaves open whether the backup is proven, since it cannot be read."""
    deciding = _deciding(backup, proofs)
    return deciding.name if deciding is not None and deciding.unreadable else ""


def _deciding(backup: Backup, proofs: Sequence[Proof]) -> Proof | None:
    """The newest proof that counts for the backup or against it."""
    if backup.status != "complete":
        return None
    for proof in reversed(proofs):
        if proof.unreadable:
            return proof
        if not proof.passed or proof.checksum != backup.checksum:
            return dataclasses.replace(proof, passed=False)
        if proof.counts:
            return proof
    return None


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


def unreadable_proof(backup: Backup, name: str, message: str) -> Proof:
    """Stands for a proof object that was altered; `message` says how that shows.

    Its time is that of its name; where the name has none, later than all others.
    """
    found = _PROOF_NAME.fullmatch(name.rpartition("/")[2])
    try:
        time = dt.datetime.strptime(found[1] if found else "", "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        time = dt.datetime.max.replace(tzinfo=UTC)
    summary = f"cannot be read, so it proves nothing: {message}"
    return Proof(str(backup.id), "", time, "unknown", passed=False, summary=summary, name=name, unreadable=True)


def resolve(text: str, backups: Iterable[Backup], damaged: Sequence[DamagedBackup] = ()) -> Backup:
    """The backup that `text` names.

    `production/20261122T020003Z-7f3a`, `production@latest`, `production@proven`, `production@2026-11-22` (the newest of that
    day, UTC), or `production` (its latest). A damaged backup that would have been meant is never passed over for an older
    one. Raises BackupNotFound, UsageError, Damaged.
    """
    known = sorted(backups, key=lambda b: b.id)
    if "/" in text:
        wanted = parse_id(text)
        for backup in known:
            if backup.id == wanted:
                return backup
        for bad in damaged:
            if bad.id == wanted:
                raise Damaged(
                    f"{text} is damaged: {bad.message}",
                    hint=f"Use another backup (`keepwell list {wanted.environment}`) or a copy of the vault; "
                    "`keepwell check` looks for more damage.",
                )
        raise BackupNotFound(f"there is no backup {text} in the vault", hint=_what_there_is(known, wanted.environment))
    environment, _, which = text.partition("@")
    mine = [b for b in known if b.id.environment == environment]
    broken = sorted((b for b in damaged if b.id.environment == environment), key=lambda b: b.id)
    if not mine and not broken:
        raise BackupNotFound(
            f"there is no backup of environment {environment!r} in the vault", hint=_what_there_is(known, environment)
        )
    if which in {"", "latest"}:
        return _newest(text, mine, broken)
    if which == "proven":
        return _newest_proven(text, environment, mine, broken)
    try:
        day = dt.date.fromisoformat(which)
    except ValueError:
        raise UsageError(
            f"{text!r} names no backup: what follows @ is latest, proven, or a day such as 2026-11-22"
        ) from None
    that_day = [b for b in mine if b.time.date() == day]
    broken = [b for b in broken if b.time.date() == day]
    if not that_day and not broken:
        raise BackupNotFound(f"{environment} has no backup of {day}", hint=_what_there_is(known, environment))
    return _newest(text, that_day, broken)


def _newest(text: str, backups: Sequence[Backup], damaged: Sequence[DamagedBackup]) -> Backup:
    """The last of `backups`, not empty unless `damaged` has one. Raises Damaged where a damaged one is newer."""
    if damaged and (not backups or damaged[-1].id > backups[-1].id):
        bad = damaged[-1]
        raise Damaged(
            f"{text} could mean {bad.id}, which is damaged: {bad.message}",
            hint=_instead(backups[-1] if backups else None, bad.id.environment),
        )
    return backups[-1]


def _newest_proven(text: str, environment: str, mine: Sequence[Backup], damaged: Sequence[DamagedBackup]) -> Backup:
    proven = [b for b in mine if b.proven]
    if damaged and (not proven or damaged[-1].id > proven[-1].id):
        _newest(text, proven, damaged)
    for backup in reversed(mine):
        if proven and backup.id <= proven[-1].id:
            break
        if backup.doubt:
            raise Damaged(
                f"{text} could mean {backup.id}, but what its proof said is not known: "
                f"{backup.doubt} was altered or cut short",
                hint=f"Prove it again: `keepwell verify {backup.id}`. "
                + (_instead(proven[-1], environment) if proven else ""),
            )
    if not proven:
        raise BackupNotFound(
            f"no backup of {environment} is proven yet",
            hint=f"`keepwell verify {environment}@latest` restores the latest one and compares.",
        )
    return proven[-1]


def _instead(older: Backup | None, environment: str) -> str:
    if older is None:
        return f"`keepwell list {environment}` shows what else there is; `keepwell check` looks for more damage."
    return f"To take the one before it, name it by its id: {older.id}. `keepwell check` looks for more damage."


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
