"""Deleting log that no rule keeps (docs/format.md, section 11)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from keepwell.core.errors import Damaged, ObjectMissing, StoreDenied
from keepwell.core.progress import Progress
from keepwell.vault.catalog import Backup
from keepwell.vault.vault import Vault
from keepwell.vault.wal import WalArchive
from keepwell.vault.walcoverage import Coverage, Part
from keepwell.vault.walkeep import (
    Holder,
    LostMoments,
    Span,
    anchor_of,
    footings_of,
    holder_of,
    lost_moments,
    must_stay,
    unneeded,
)


@dataclass(frozen=True)
class LogSource:
    environment: str
    source: str
    window: dt.timedelta
    """Every moment of it stays recoverable."""


@dataclass
class LogPruned:
    """What goes, or would go, of the log of one source."""

    environment: str
    source: str
    parts: int = 0
    doubled: int = 0
    """Of `parts`: what another part holds all of."""
    bytes: int = 0
    lost: list[LostMoments] = field(default_factory=list)


class LogPrune:
    """One look at the log and the backups, in this order; then the deletion of what was seen to be needed by nobody."""

    def __init__(
        self,
        vault: Vault,
        sources: Sequence[LogSource],
        now: dt.datetime,
        grace: dt.timedelta,
        log_of: Vault | None = None,
    ) -> None:
        """`log_of`: the vault whose log is looked at for the backups of `vault`, which is a copy of it."""
        self._vault, self._sources, self._now, self._grace = vault, sources, now, grace
        log = log_of or vault
        self._coverages = {
            source: {
                system: log.wal(source.environment, source.source, system).coverage()
                for system in log.wal_systems(source.environment, source.source)
            }
            for source in sources
        }
        environments = sorted({source.environment for source in sources})
        self._modified = {
            info.name: info.modified
            for environment in environments
            for info in vault.store.list(f"{environment}/")
            if info.name.endswith("/metadata.json")
        }
        scans = {environment: vault.scan(environment, with_proofs=False) for environment in environments}
        self._backups = {name: scan.backups for name, scan in scans.items()}
        self._condemned = {name: scan.condemned for name, scan in scans.items()}
        self._damaged = {name for name, scan in scans.items() if scan.damaged}
        """What a backup needs whose `metadata.json` cannot be believed is not known: there all log stays."""
        self._running = {name for name, scan in scans.items() if scan.uncommitted}

    @cached_property
    def anchors(self) -> dict[str, LogSource]:
        """Ids of the backups that must stay, with the source that needs them."""
        found = {}
        for source in self._sources:
            listed = self._holders(source, self._backups)
            for holder in must_stay(listed, self._coverages[source], self._span(source)):
                found[holder.backup] = source
        return found

    def unneeded(self) -> set[str]:
        """Names of the parts of the log that no backup and no window asks for."""
        found: set[str] = set()
        for source in self._sources:
            if source.environment in self._damaged:
                continue
            listed, span = self._holders(source, self._backups), self._span(source)
            anchor = anchor_of(listed, span)
            coverages = self._coverages[source]
            footings = footings_of(listed, anchor, coverages, span)
            everyone = [*listed, *self._holders(source, self._condemned)]
            for system, coverage in coverages.items():
                gone = unneeded(system, coverage, everyone, anchor, footings, span, expected=True)
                found |= {part.name for part in gone.parts}
        return found

    def run(self, removed: set[str], progress: Progress, *, dry_run: bool) -> list[LogPruned]:
        """`removed`: ids of backups that leave the list with this prune. Raises Damaged, StoreError."""
        return [self._run(source, removed, progress, dry_run=dry_run) for source in self._sources]

    def _run(self, source: LogSource, removed: set[str], progress: Progress, *, dry_run: bool) -> LogPruned:
        result = LogPruned(source.environment, source.source)
        if source.environment in self._damaged:
            progress.warn(f"a backup of {source.environment} is damaged, so all of its log stays")
            return result
        listed, span = self._holders(source, self._backups), self._span(source)
        anchor = anchor_of(listed, span)
        footings = footings_of(listed, anchor, self._coverages[source], span)
        everyone = [*listed, *self._holders(source, self._condemned)]
        staying = [holder for holder in listed if holder.backup not in removed]
        coverages = self._coverages[source]
        newest = max(coverages, key=lambda system: _newest(coverages[system]), default=None)
        for system, coverage in coverages.items():
            expected = system == newest or source.environment in self._running
            gone = unneeded(system, coverage, everyone, anchor, footings, span, expected=expected)
            result.lost += lost_moments(system, coverage, gone.parts, listed, staying)
            archive = self._vault.wal(source.environment, source.source, system)
            names = [(part.name, part) for part in gone.parts]
            names += [(small.name, small) for small, whole in gone.doubled if _opens(archive, whole)]
            result.doubled += len(names) - len(gone.parts)
            result.parts += len(names)
            result.bytes += sum(part.size for _, part in names)
            if not dry_run:
                files = [f"{archive.folder}files/{name}" for name in gone.files]
                self._delete([*(name for name, _ in names), *files], source, progress)
        return result

    def _delete(self, names: Sequence[str], source: LogSource, progress: Progress) -> None:
        if not names:
            return
        what = f"Log of {source.environment}/{source.source}"
        progress.begin(what, len(names), "objects")
        try:
            for name in names:
                self._vault.store.delete(name)
                progress.advance(what)
            self._vault.store.flush()
        except StoreDenied as error:  # the rest is younger, so it is locked for longer
            progress.warn(f"{error} (this log and what follows it stay until then)")
        finally:
            progress.end(what)

    def _span(self, source: LogSource) -> Span:
        return Span(self._now, source.window, self._grace)

    def _holders(self, source: LogSource, backups: dict[str, list[Backup]]) -> list[Holder]:
        return list(self._each_holder(source, backups[source.environment]))

    def _each_holder(self, source: LogSource, backups: Sequence[Backup]) -> Iterator[Holder]:
        for backup in backups:
            # One that came after our listing of the store is as young as can be.
            holder = holder_of(backup, source.source, self._modified.get(backup.metadata, self._now))
            if holder is not None:
                yield holder


def _newest(coverage: Coverage) -> dt.datetime:
    return max((part.modified for part in coverage.parts), default=dt.datetime.min.replace(tzinfo=dt.UTC))


def _opens(archive: WalArchive, part: Part) -> bool:
    """Whether what is to stand for others is whole, as far as its head and its size tell."""
    try:
        archive.head(part)
    except (Damaged, ObjectMissing):
        return False
    return True
