"""Which source of a backup is meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from keepwell.core.errors import BackupNotFound, SourceError, UsageError
from keepwell.core.streams import Context, Facts, Streams
from keepwell.policy.values import nearest

if TYPE_CHECKING:
    from keepwell.proof.references import Lookup
    from keepwell.vault.vault import BackupReader


def complete_sources(reader: BackupReader) -> list[str]:
    """Those that were captured, in the order of the policy at backup time."""
    return [name for name, source in reader.sources.items() if source["status"] == "complete"]


def missing_sources(reader: BackupReader) -> dict[str, str]:
    """Those that are not in the backup although they belong to its environment, with the reason."""
    return {
        name: str(source.get("error") or "it was not asked for when the backup was taken")
        for name, source in reader.sources.items()
        if source["status"] != "complete"
    }


def lookup_in(reader: BackupReader, context: Context) -> Lookup:
    """The other sources of the same backup, for what a database refers to."""

    def lookup(name: str) -> tuple[Facts, Streams]:
        require_source(reader, name)
        return reader.facts(name), reader.streams(name, context.jobs)

    return lookup


def require_source(reader: BackupReader, name: str) -> str:
    """The name, where the backup has it. Raises BackupNotFound, SourceError where it failed at backup time."""
    if name not in reader.sources:
        known = reader.sources
        raise BackupNotFound(
            f"{reader.backup.id} has no source {name!r}",
            hint=f"{nearest(name, known)} It has: {', '.join(known)}.".strip(),
        )
    if reason := missing_sources(reader).get(name):
        raise SourceError(
            f"source {name} is not in {reader.backup.id}: {reason}",
            hint=f"Use an earlier backup: `keepwell list {reader.backup.id.environment}` shows which are complete.",
        )
    return name


def only_source(reader: BackupReader, types: Iterable[str], wish: str) -> str:
    """The one source of these types, for a request (`wish`) that means one. Raises UsageError."""
    wanted = set(types)
    found = [name for name in complete_sources(reader) if reader.facts(name)["type"] in wanted]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(f"{wish}, and {reader.backup.id} has no source that fits")
    raise UsageError(
        f"{wish} needs one source, and {reader.backup.id} has several: {', '.join(found)}",
        hint=f"Name it: --source {found[0]}",
    )
