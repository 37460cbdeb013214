"""The plan of a recovery, over the backups and the log of a vault."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from keepwell.core.errors import BackupNotFound, UsageError
from keepwell.operations.logpath import Base, Log
from keepwell.operations.moments import Plan, Window, plan, recoverable
from keepwell.sources.base import Recovery
from keepwell.vault.catalog import Backup, resolve


class Archive(Protocol):
    """`vault.wal.WalArchive`, as far as it is needed here."""

    def coverage(self) -> Log: ...


Archives = Callable[[str], Archive]
"""The archive of a cluster by its system identifier: `lambda system: vault.wal(environment, source, system)`."""


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


def _log(archive: Archive) -> Log | None:
    log = archive.coverage()
    return log if log.timelines() else None
