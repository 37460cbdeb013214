"""A copy of one source that needs no keepwell: the file, `metadata.json`, and a line for `sha256sum -c`."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from keepwell.core.clock import iso
from keepwell.core.newfile import new_file, refuse_existing
from keepwell.core.streams import Context, Json
from keepwell.operations.choosing import only_source, require_source
from keepwell.operations.opening import open_for_reading
from keepwell.policy.load import LoadedPolicy
from keepwell.sources.registry import TYPES, kind_of

METADATA = "metadata.json"


@dataclass(frozen=True)
class ExportRequest:
    backup: str
    source: str | None
    """None: the only one of the backup."""
    to: Path
    """A folder, made where it is missing."""


@dataclass(frozen=True)
class ExportResult:
    backup: str
    source: str
    timestamp: str
    database: str
    file: Path
    size: int
    checksum: str
    """SHA-256 of the file, hexadecimal."""
    seconds: float

    def metadata(self) -> dict[str, Json]:
        """The strategy's four, and whose they are."""
        return {
            "timestamp": self.timestamp,
            "database": self.database,
            "size": self.size,
            "checksum": self.checksum,
            "file": self.file.name,
            "backup": self.backup,
            "source": self.source,
        }

    def json(self) -> dict[str, Json]:
        return self.metadata() | {"file": str(self.file), "seconds": round(self.seconds, 3)}


def export(loaded: LoadedPolicy, request: ExportRequest, context: Context) -> ExportResult:
    """Writes into the folder `database.sql.gz` (`database.db.gz`, `files.tar.gz`), `<file>.sha256`, `metadata.json`.

    The copy is not encrypted. Raises UsageError, BackupNotFound, TargetNotEmpty, SourceError, Damaged, KeyCannotRead,
    StoreError, Interrupted; nothing is left of an export that failed.
    """
    started = context.clock.monotonic()
    vault = open_for_reading(loaded, context.progress)
    reader = vault.read(vault.find(request.backup))
    name = only_source(reader, TYPES, "export") if request.source is None else require_source(reader, request.source)
    facts = reader.facts(name)
    folder = request.to.expanduser()
    refuse_existing(folder / METADATA)
    made = kind_of(facts["type"]).export(facts, reader.streams(name, context.jobs), folder, context)
    result = ExportResult(
        str(reader.backup.id),
        name,
        iso(reader.backup.time),
        str(facts.get("database") or facts.get("root") or name),
        made.path,
        made.size,
        made.sha256,
        context.clock.monotonic() - started,
    )
    line = made.path.with_name(f"{made.path.name}.sha256")
    with contextlib.ExitStack() as undo:
        undo.callback(made.path.unlink)
        with new_file(line) as file:
            file.write(f"{made.sha256}  {made.path.name}\n".encode())
        undo.callback(line.unlink)
        with new_file(folder / METADATA) as file:
            file.write(json.dumps(result.metadata(), indent=2).encode() + b"\n")
        undo.pop_all()
    return result
