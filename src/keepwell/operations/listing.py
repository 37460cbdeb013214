"""What backups there are, and what is in one."""

from __future__ import annotations

from dataclasses import dataclass

from keepwell.core.clock import iso
from keepwell.core.errors import BackupNotFound
from keepwell.core.progress import Progress
from keepwell.core.streams import Json
from keepwell.operations.opening import open_for_reading
from keepwell.policy.load import LoadedPolicy
from keepwell.vault.catalog import Backup, DamagedBackup, Proof
from keepwell.vault.layout import parse_id, parse_name
from keepwell.vault.vault import BackupReader


@dataclass(frozen=True)
class Listed:
    """One line of `keepwell list`."""

    backup: str
    environment: str
    tier: str
    time: str
    status: str
    """`complete`, `incomplete`, or `damaged`: its metadata.json cannot be believed."""
    bytes: int | None
    """Read from the sources. None where that is not known."""
    stored: int | None
    """Added to the store. None where that is not known."""
    proven: bool
    run: str = ""
    """The occurrence of a schedule that it is; empty where somebody asked for it."""
    damage: str = ""
    """What is wrong with a backup that is damaged, or with the proof of another."""

    def json(self) -> dict[str, Json]:
        return {key: value for key, value in vars(self).items() if key not in {"run", "damage"} or value}


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
        str(backup.document.get("run", "")),
        f"{backup.doubt} was altered or cut short: whether it is proven is not known" if backup.doubt else "",
    )


def listed_damaged(backup: DamagedBackup) -> Listed:
    return Listed(
        str(backup.id),
        backup.id.environment,
        backup.tier,
        iso(backup.time),
        "damaged",
        None,
        None,
        proven=False,
        damage=backup.message,
    )


def backup_of(folder: str) -> str:
    """The id of the backup in a folder of the vault."""
    placed = parse_name(folder.rstrip("/") + "/manifest")
    return str(placed.id) if placed else folder


def list_backups(
    loaded: LoadedPolicy, environment: str | None = None, progress: Progress | None = None
) -> list[Listed]:
    """Oldest first, damaged ones among them. Raises BackupNotFound where neither the policy nor the vault knows the
    environment.
    """
    vault = open_for_reading(loaded, progress)
    vault.config.require("read")
    catalogue = vault.scan()
    lines = [listed(backup) for backup in catalogue.backups] + [listed_damaged(bad) for bad in catalogue.damaged]
    known = set(loaded.policy.environments) | {line.environment for line in lines}
    if environment is not None and environment not in known:
        raise BackupNotFound(
            f"neither the policy nor the vault has an environment {environment!r}",
            hint=f"There is: {', '.join(sorted(known))}." if known else "The vault has no backups yet.",
        )
    return sorted((line for line in lines if environment in {None, line.environment}), key=lambda line: line.backup)


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
                {"time": iso(p.time), "level": p.level, "passed": p.passed, "summary": p.summary}
                | ({"damaged": True} if p.unreadable else {})
                for p in self.proofs
            ],
            "portable": self.extras,
        }


@dataclass(frozen=True)
class ShownDamaged:
    """What is left of a backup whose metadata.json cannot be believed."""

    line: Listed
    objects: list[str]
    """Names of what lies in its folder."""

    def json(self) -> dict[str, Json]:
        return self.line.json() | {"objects": self.objects}


def show(loaded: LoadedPolicy, name: str, progress: Progress | None = None) -> Shown | ShownDamaged:
    """A damaged backup only where it is named by its id. Raises BackupNotFound, Damaged."""
    vault = open_for_reading(loaded, progress)
    if "/" in name:
        vault.config.require("read")
        wanted = parse_id(name)
        for bad in vault.scan(wanted.environment, with_proofs=False).damaged:
            if bad.id == wanted:
                names = [info.name.removeprefix(bad.folder) for info in vault.store.list(bad.folder)]
                return ShownDamaged(listed_damaged(bad), sorted(names))
    backup = vault.find(name)
    reader = vault.read(backup) if vault.keyring.role == "reader" else None
    return Shown(
        listed(backup),
        backup.document,
        _sources(backup, reader),
        vault.keyring.role,
        vault.proofs(backup),
        [extra.removeprefix(backup.folder) for extra in backup.extras],
    )


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
        for key in ("database", "version", "files", "folders", "refs", "objects", "warnings"):
            if key in facts:
                entry[key] = facts[key]
        if "tables" in facts:
            entry["tables"] = {table: {"rows": of["rows"]} for table, of in facts["tables"].items()}
        entry["streams"] = streams
        found[name] = entry
    return found
