"""To which moments recovery is possible, where the log has gaps, and how far behind the vault is."""

from __future__ import annotations

import datetime as dt
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keepwell.core.clock import iso
from keepwell.core.errors import Damaged, KeyCannotRead, SourceError, UsageError
from keepwell.core.streams import Context, Json
from keepwell.core.wal import show_lsn
from keepwell.operations.logpath import Base
from keepwell.operations.moments import Window, recoverable, show_time
from keepwell.operations.opening import open_vault
from keepwell.operations.recovering import bases_of
from keepwell.operations.wal_retention import window_of
from keepwell.operations.wal_sources import physical_sources
from keepwell.policy.load import LoadedPolicy
from keepwell.vault.catalog import Backup
from keepwell.vault.vault import Vault
from keepwell.vault.wal import WalArchive
from keepwell.vault.walcoverage import Coverage

if TYPE_CHECKING:
    from keepwell.sources.physical.slot import SlotState


@dataclass(frozen=True)
class StatusRequest:
    source: str | None = None
    environment: str | None = None
    """None: all."""
    ask: bool = True
    """Ask the servers how far they are."""


@dataclass(frozen=True)
class Gap:
    timeline: int
    start: int
    end: int

    def json(self) -> dict[str, Json]:
        return {"timeline": self.timeline, "from": show_lsn(self.start), "to": show_lsn(self.end)}


@dataclass
class ClusterLog:
    """The log of one cluster. Where there are several, the source's server was made anew at some time."""

    system: str
    timelines: list[tuple[int, int, int]]
    """(timeline, first position, last position)"""
    parts: int
    stored: int
    """Bytes in the store."""
    newest: dt.datetime | None
    """When log was stored last, by the store's clock."""
    windows: list[Window]
    gaps: list[Gap]
    """That a recovery would run into: after the oldest backup."""
    problems: list[str] = field(default_factory=list)

    @property
    def end(self) -> tuple[int, int] | None:
        """Timeline and position of the last log."""
        return (self.timelines[-1][0], self.timelines[-1][2]) if self.timelines else None

    def json(self) -> dict[str, Json]:
        return {
            "system": self.system,
            "timelines": [
                {"timeline": timeline, "from": show_lsn(start), "to": show_lsn(end)}
                for timeline, start, end in self.timelines
            ],
            "objects": self.parts,
            "bytes": self.stored,
            "newest": iso(self.newest) if self.newest else None,
            "windows": [_window(window) for window in self.windows],
            "gaps": [gap.json() for gap in self.gaps],
            "problems": self.problems,
        }


@dataclass
class SourceLog:
    environment: str
    source: str
    now: dt.datetime
    clusters: list[ClusterLog] = field(default_factory=list)
    slot: SlotState | None = None
    system: str | None = None
    """Of the server, where it was asked."""
    unreachable: str = ""
    """Why the server could not be asked."""
    backups: int = 0
    """Complete physical backups."""
    problems: list[str] = field(default_factory=list)

    @property
    def current(self) -> ClusterLog | None:
        """The server's own cluster, else the one whose log was stored last."""
        own = [cluster for cluster in self.clusters if cluster.system == self.system]
        known = own or ([] if self.system else [c for c in self.clusters if c.newest])
        return max(known, key=lambda c: c.newest or dt.datetime.min.replace(tzinfo=dt.UTC), default=None)

    @property
    def behind_bytes(self) -> int | None:
        """What the server has and the vault not; None where the server was not asked."""
        if self.slot is None or self.slot.position is None or self.system is None:
            return None
        end = self.current.end if self.current else None
        return max(0, self.slot.position - end[1]) if end else None

    @property
    def behind_seconds(self) -> float | None:
        """Since log was last stored, where there is more; nothing where the vault has all."""
        if self.behind_bytes == 0:
            return 0.0
        if self.current is None or self.current.newest is None:
            return None
        return max(0.0, (self.now - self.current.newest).total_seconds())

    def json(self) -> dict[str, Json]:
        seconds = self.behind_seconds
        return {
            "environment": self.environment,
            "source": self.source,
            "backups": self.backups,
            "clusters": [cluster.json() for cluster in self.clusters],
            "server": {
                "system": self.system,
                "position": show_lsn(self.slot.position) if self.slot and self.slot.position is not None else None,
                "unreachable": self.unreachable or None,
                "slot": self.slot.json() if self.slot else None,
            },
            "behind": {"bytes": self.behind_bytes, "seconds": None if seconds is None else round(seconds, 1)},
            "problems": self.problems,
        }


def wal_status(loaded: LoadedPolicy, request: StatusRequest, context: Context) -> list[SourceLog]:
    """One of each physical source of the policy, then of those that only the vault knows.

    Raises UsageError where nothing fits, the VaultKeyError and StoreError families. A server that does not answer is in the result.
    """
    if request.environment is not None and request.environment not in loaded.policy.environments:
        loaded.environment(request.environment)
    vault = open_vault(loaded)
    vault.config.require("read")
    catalogue = vault.scan(with_proofs=False)
    inside = {place for info in vault.store.list("wal/") if (place := _place(info.name))}
    known = physical_sources(loaded)
    wanted = [*known, *sorted(inside - set(known))]
    fits = [
        (environment, source)
        for environment, source in wanted
        if request.environment in {None, environment} and request.source in {None, source}
    ]
    if not fits and (request.source or request.environment or not wanted):
        raise UsageError(
            "there is no log of such a source, and the policy has none either"
            if wanted
            else "the policy has no physical source, and the vault has no log",
            hint='Only sources of type "postgres" with method = "physical" have a log.',
        )
    return [
        _source(loaded, vault, catalogue.backups, environment, source, request, context) for environment, source in fits
    ]


def _place(name: str) -> tuple[str, str] | None:
    parts = name.split("/")
    return (parts[1], parts[2]) if len(parts) > 4 else None


def _source(
    loaded: LoadedPolicy,
    vault: Vault,
    backups: Sequence[Backup],
    environment: str,
    source: str,
    request: StatusRequest,
    context: Context,
) -> SourceLog:
    found = SourceLog(environment, source, context.clock.now())
    complete = [backup for backup in backups if backup.status == "complete"]
    try:
        bases = bases_of(complete, environment, source)
    except Damaged as error:
        bases = []
        found.problems.append(error.message)
    found.backups = len(bases)
    systems = {base.system for base in bases} | set(vault.wal_systems(environment, source))
    for system in sorted(systems):
        mine = [base for base in bases if base.system == system]
        since = found.now - window_of(loaded, environment, source)
        found.clusters.append(_cluster(vault.wal(environment, source, system), mine, since))
    if request.ask and (environment, source) in physical_sources(loaded):
        _ask(loaded, environment, source, found)
    found.problems += _problems(found)
    return found


def _cluster(archive: WalArchive, bases: list[Base], since: dt.datetime) -> ClusterLog:
    coverage = archive.coverage()
    timelines = []
    for timeline in coverage.timelines():
        spans = coverage.spans(timeline)
        timelines.append((timeline, spans[0][0], spans[-1][1]))
    problems: list[str] = []
    windows: list[Window] = []
    try:
        windows = recoverable(bases, coverage if coverage.parts else None)
    except (Damaged, KeyCannotRead) as error:
        problems.append(f"{error.message} ({error.hint})" if error.hint else error.message)
    problems += [
        f"the history of timeline {timeline} is missing, so its log cannot be followed"
        for timeline in coverage.timelines()
        if timeline > 1 and f"{timeline:08X}.history" not in coverage.files
    ]
    return ClusterLog(
        archive.system,
        timelines,
        len(coverage.parts),
        sum(part.size for part in coverage.parts),
        max((part.modified for part in coverage.parts), default=None),
        windows,
        _gaps(coverage, bases, since),
        problems,
    )


def _gaps(coverage: Coverage, bases: list[Base], since: dt.datetime) -> list[Gap]:
    """Of the log that is to be there: a prune takes what lies before the backup that the window begins with, but for the log that
    older backups began and ended in.
    """
    gaps = []
    for timeline in coverage.timelines():
        fitting = [base for base in bases if base.timeline <= timeline]
        old = [base for base in fitting if base.time <= since]
        first = max(old, key=lambda base: base.time) if old else min(fitting, key=lambda base: base.stop, default=None)
        # What is missing before that one's end is in nobody's way.
        gaps += [Gap(timeline, a, b) for a, b in coverage.gaps(timeline) if first is None or b > first.stop]
    return gaps


def _ask(loaded: LoadedPolicy, environment: str, name: str, found: SourceLog) -> None:
    slots: Any = importlib.import_module("keepwell.sources.physical.slot")
    replication: Any = importlib.import_module("keepwell.sources.physical.replication")
    source: Any = loaded.policy.environments[environment].sources[name]
    slot = getattr(source, "slot", None) or slots.slot_name(environment, name)
    try:
        url = source.url.resolve(loaded.base, what=f"the URL of source {name}", error=SourceError)
        found.slot = slots.slot_state(url, slot)
        with replication.Replication.connect(url) as link:
            found.system = str(link.identify().system)
    except SourceError as error:
        found.unreachable = error.message


def _problems(found: SourceLog) -> list[str]:
    problems = []
    if found.unreachable:
        problems.append(f"the server cannot be asked: {found.unreachable}")
    if not found.backups:
        problems.append(f"there is no physical backup to begin with: keepwell backup {found.environment}")
    if found.system and found.clusters and found.current is None:
        problems.append(f"the vault has no log of the server's cluster, {found.system}: it was made anew")
    elif not any(cluster.timelines for cluster in found.clusters):
        problems.append(
            "the vault has no log: `keepwell wal receive` brings it, or `keepwell wal push` as archive_command"
        )
    for cluster in found.clusters:
        problems += cluster.problems
        if cluster is found.current:
            problems += [
                f"a gap: {show_lsn(gap.start)} to {show_lsn(gap.end)} of timeline {gap.timeline} is missing"
                for gap in cluster.gaps
            ]
    # Whoever archives with `wal push` has no slot and needs none.
    if found.slot and found.slot.exists and found.slot.advice:
        problems.append(found.slot.advice)
    return problems


def _window(window: Window) -> dict[str, Json]:
    return {
        "from": show_time(window.begin),
        "to": show_time(window.end),
        "from_lsn": show_lsn(window.begin_lsn),
        "to_lsn": show_lsn(window.end_lsn),
        "timeline": window.timeline,
        "backups": list(window.backups),
        "gap": None if window.gap is None else Gap(*window.gap).json(),
    }
