"""The plan of a recovery, over the backups and the log of a vault."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from keepwell.core.errors import BackupNotFound, Damaged, UsageError
from keepwell.core.wal import Fork, history_name, parse_history
from keepwell.operations.logpath import Base
from keepwell.operations.moments import Plan, Window, plan, recoverable
from keepwell.sources.base import Recovery
from keepwell.vault.catalog import Backup, resolve

_HISTORY = ".history"


class Archive(Protocol):
    """`vault.wal.WalArchive`, as far as it is needed here."""

    def coverage(self) -> Any: ...

    def files(self) -> list[str]: ...

    def read_file(self, name: str) -> bytes: ...

    def read(self, timeline: int, start: int, length: int) -> bytes: ...


Archives = Callable[[str], Archive]
"""The archive of a cluster by its system identifier: `lambda system: vault.wal(environment, source, system)`."""


class ArchivedLog:
    """A `Log` over an archive: one listing, and each history read once."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._coverage = archive.coverage()
        named = {name for name in archive.files() if name.endswith(_HISTORY)}
        self._histories = {int(name.removesuffix(_HISTORY), 16) for name in named}
        self._timelines = sorted({part.timeline for part in self._coverage.parts} | self._histories)
        self.history = functools.cache(self._history)
        self.spans = functools.cache(self._spans)

    def timelines(self) -> list[int]:
        return self._timelines

    def read(self, timeline: int, start: int, length: int) -> bytes:
        return self._archive.read(timeline, start, length)

    def _spans(self, timeline: int) -> list[tuple[int, int]]:
        return sorted(self._coverage.spans(timeline))

    def _history(self, timeline: int) -> list[Fork]:
        """Raises Damaged."""
        if timeline not in self._histories:
            return []
        name = history_name(timeline)
        try:
            return parse_history(self._archive.read_file(name).decode())
        except ValueError as error:
            raise Damaged(f"{name} in the vault is no history of a timeline: {error}") from None


def bases_of(backups: Iterable[Backup], environment: str, source: str) -> list[Base]:
    """The physical backups of a source that a recovery may begin with, by their metadata. Raises Damaged."""
    return [
        Base.of(str(backup.id), found["wal"])
        for backup in backups
        if backup.id.environment == environment
        and (found := backup.document["sources"].get(source))
        and found["status"] == "complete"
        and "wal" in found
    ]


def plan_for(backups: Sequence[Backup], text: str, source: str, recovery: Recovery, archives: Archives) -> Plan:
    """The plan for what a person asked for: `text` names a backup as `Vault.find` takes it.

    An id or a day means that backup. `production`, `production@latest` and `production@proven` mean the newest (proven) one from
    which the moment can be reached. `backups`: all of the vault. Raises BackupNotFound, UsageError, Damaged, StoreError.
    """
    named = resolve(text, backups)
    which = text.partition("@")[2]
    free = "/" not in text and which in {"", "latest", "proven"}
    bases = bases_of([b for b in backups if b.proven] if which == "proven" else backups, named.id.environment, source)
    if not free and str(named.id) not in {base.backup for base in bases}:
        raise BackupNotFound(
            f"{named.id} has no physical backup of {source}",
            hint=f"Those that have one: {', '.join(base.backup for base in bases[-5:]) or 'none'}.",
        )
    if not bases:
        raise UsageError(
            f"{named.id.environment} has no {'proven ' if which == 'proven' else ''}physical backup of {source} to recover from",
            hint='A source has physical backups once it has method = "physical" and a backup was taken.',
        )
    logs = functools.cache(lambda system: _log(archives(system)))
    return plan(bases, logs, recovery, exact=None if free else str(named.id))


def windows_of(backups: Sequence[Backup], environment: str, source: str, system: str, archive: Archive) -> list[Window]:
    """What can be recovered to of one cluster; see `moments.recoverable`."""
    bases = [base for base in bases_of(backups, environment, source) if base.system == system]
    return recoverable(bases, _log(archive))


def _log(archive: Archive) -> ArchivedLog | None:
    log = ArchivedLog(archive)
    return log if log.timelines() else None
