"""The recovery that a proof of a physical backup rehearses: to a random moment, where the vault has log for one."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from keepwell.core.errors import Damaged, UsageError
from keepwell.core.streams import Finding
from keepwell.operations.logpath import Base
from keepwell.operations.logsource import log_source
from keepwell.operations.moments import Plan, Window, show_time
from keepwell.operations.physical_restore import needs_log
from keepwell.operations.recovering import bases_of, plan_for, windows_of
from keepwell.policy.models import Source
from keepwell.proof.prove import SourceProof
from keepwell.sources.base import Recovery
from keepwell.sources.physical.target import LogSource, Sandbox
from keepwell.vault.catalog import Backup
from keepwell.vault.vault import BackupReader, Vault


@dataclass(frozen=True)
class Rehearsal:
    """What is to be tried with one source."""

    database: str
    """To which the policy's checks go."""
    plan: Plan | None = None
    """None: the backup by itself is all there is."""
    log: LogSource | None = None
    wanted: str = ""
    findings: tuple[Finding, ...] = ()
    """Log that is missing between the backup and the newest moment."""

    @classmethod
    def of(cls, vault: Vault, reader: BackupReader, name: str, source: Source | None) -> Rehearsal:
        """Chooses a moment between this backup's end and the next one's (else the log's end): later ones are reached from
        later backups. Raises StoreError, KeyCannotRead.
        """
        database = str(getattr(source, "database", None) or "postgres")
        environment = reader.backup.id.environment
        backups = vault.backups(environment)
        mine = next((b for b in bases_of(backups, environment, name) if b.backup == str(reader.backup.id)), None)
        if mine is None or mine.system not in vault.wal_systems(environment, name):
            return cls(database)
        archive = vault.wal(environment, name, mine.system)
        try:
            windows = windows_of(backups, environment, name, mine.system, archive)
            # Files are as old as the backup: what a later state of the database refers to may not be there yet.
            with_files = bool(getattr(source, "references", ()))
            later = _moment(windows, mine, bases_of(backups, environment, name))
            chosen = Recovery(immediate=True) if with_files else later
            plan = plan_for(backups, mine.backup, name, chosen, lambda system: vault.wal(environment, name, system))
            findings = _gaps(vault, backups, environment, name, mine)
            log = log_source(archive) if needs_log(plan) else None
        except (Damaged, UsageError) as error:
            return cls(database, findings=(Finding("log", error.message),))
        wanted = show_time(chosen.time) if chosen.time else "the end of the backup"
        return cls(database, plan, log, wanted, findings)

    def prepare(self, target: Sandbox | Any) -> None:
        target.database = self.database
        if self.plan and self.log:
            target.recovery, target.log = self.plan.recovery, self.log

    def tell(self, proof: SourceProof) -> None:
        """What was wanted goes into the proof, and what is wrong with the log."""
        proof.found(*self.findings)
        if self.plan:
            proof.recovery = {"wanted": self.wanted, "log_bytes": self.plan.bytes, **proof.recovery}
        elif not self.findings:
            proof.warnings.append("the vault has no log of this cluster: recovered to the end of the backup only")


def _moment(windows: list[Window], mine: Base, bases: list[Base]) -> Recovery:
    window = next((w for w in windows if mine.backup in w.backups), None)
    if window is None:
        return Recovery(immediate=True)
    later = [base.ready for base in bases if base.backup in window.backups and base.stop > mine.stop]
    end = min([window.end, *later])
    room = (end - mine.ready).total_seconds()
    if room <= 0:
        return Recovery(immediate=True)
    share = secrets.randbelow(1_000_001) / 1_000_000
    return Recovery(time=mine.ready + (end - mine.ready) * share, timeline=str(window.timeline))


def _gaps(vault: Vault, backups: list[Backup], environment: str, name: str, mine: Base) -> tuple[Finding, ...]:
    """Level objects: no log may be missing between the backup and the newest moment."""
    try:
        plan_for(backups, mine.backup, name, Recovery(), lambda system: vault.wal(environment, name, system))
    except (Damaged, UsageError) as error:
        return (Finding("log", error.message),)
    return ()
