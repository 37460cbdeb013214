"""What backups there are, and what is in one."""

from __future__ import annotations

from dataclasses import dataclass

from keepwell.core.clock import iso
from keepwell.core.errors import BackupNotFound
from keepwell.core.streams import Json
from keepwell.operations.opening import open_vault
from keepwell.policy.load import LoadedPolicy
from keepwell.vault.catalog import Backup, Proof
from keepwell.vault.layout import parse_name
from keepwell.vault.vault import BackupReader, Vault


@dataclass(frozen=True)
class Listed:
    """One line of `keepwell list`."""

    backup: str
    environment: str
    tier: str
    time: str
    status: str
    bytes: int
    """Read from the sources."""
    stored: int
    """Added to the store."""
    proven: bool

    def json(self) -> dict[str, Json]:
        return dict(vars(self))


def listed(backup: Backup) -> Listed:
    return Listed(
        str(backup.id),
        backup.id.environment,
        backup.tier,
        iso(backup.time),
        backup.status,
        int(backup.document["bytes"]["read"]),
        backup.size,
        backup.proven,
    )


def backup_of(folder: str) -> str:
    """The id of the backup in a folder of the vault."""
    placed = parse_name(folder.rstrip("/") + "/manifest")
    return str(placed.id) if placed else folder


def list_backups(loaded: LoadedPolicy, environment: str | None = None) -> list[Listed]:
    """Oldest first. Raises BackupNotFound where neither the policy nor the vault knows the environment."""
    vault = open_vault(loaded)
    backups = vault.backups()
    known = set(loaded.policy.environments) | {backup.id.environment for backup in backups}
    if environment is not None and environment not in known:
        raise BackupNotFound(
            f"neither the policy nor the vault has an environment {environment!r}",
            hint=f"There is: {', '.join(sorted(known))}." if known else "The vault has no backups yet.",
        )
    return [listed(backup) for backup in backups if environment in {None, backup.id.environment}]


@dataclass(frozen=True)
class Shown:
    """Everything that the vault says of one backup. Without a reader key `sources` has only what metadata.json says."""

    line: Listed
    document: dict[str, Json]
    sources: dict[str, dict[str, Json]]
    role: str
    proofs: list[Proof]
    extras: list[str]
    """Names of the portable copies beside it."""

    def json(self) -> dict[str, Json]:
        return self.line.json() | {
            "host": self.document["host"],
            "program": self.document["program"],
            "seconds": self.document["seconds"],
            "previous": self.document["previous"],
            "size": {name: self.document["bytes"][name] for name in ("read", "new", "stored")},
            "key": self.role,
            "sources": self.sources,
            "proofs": [
                {"time": iso(p.time), "level": p.level, "passed": p.passed, "summary": p.summary} for p in self.proofs
            ],
            "portable": self.extras,
        }


def show(loaded: LoadedPolicy, name: str) -> Shown:
    """Raises BackupNotFound, Damaged."""
    vault = open_vault(loaded)
    backup = vault.find(name)
    reader = vault.read(backup) if vault.keyring.role == "reader" else None
    return Shown(
        listed(backup),
        backup.document,
        _sources(backup, reader),
        vault.keyring.role,
        _proofs(vault, backup),
        [extra.removeprefix(backup.folder) for extra in backup.extras],
    )


def _proofs(vault: Vault, backup: Backup) -> list[Proof]:
    return vault.proofs(backup)


def _sources(backup: Backup, reader: BackupReader | None) -> dict[str, dict[str, Json]]:
    if reader is None:
        return {name: dict(source) for name, source in backup.document["sources"].items()}
    found: dict[str, dict[str, Json]] = {}
    for name, source in reader.sources.items():
        facts = dict(source["facts"])
        streams = {s.name: s.size for s in reader.manifest.streams if s.source == name}
        entry: dict[str, Json] = {"status": source["status"], "type": facts.get("type"), "bytes": facts.get("bytes", 0)}
        if source.get("error"):
            entry["error"] = source["error"]
        for key in ("database", "version", "files", "folders", "warnings"):
            if key in facts:
                entry[key] = facts[key]
        if "tables" in facts:
            entry["tables"] = {table: {"rows": of["rows"]} for table, of in facts["tables"].items()}
        entry["streams"] = streams
        found[name] = entry
    return found
