"""Deleting what the policy no longer keeps, in two phases; and taking that back."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from keepwell.core.clock import iso
from keepwell.core.streams import Context, Json
from keepwell.operations.listing import backup_of
from keepwell.operations.locks import renew_locks
from keepwell.operations.opening import open_vault
from keepwell.operations.wal_retention import as_json, look, with_anchors
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.retention import Decision, Kept, decide
from keepwell.stores.probe import store_now
from keepwell.vault import audittrim, runlogs
from keepwell.vault import prune as pruning
from keepwell.vault.catalog import Backup
from keepwell.vault.prune import PruneReport
from keepwell.vault.walprune import LogPruned


@dataclass(frozen=True)
class PruneRequest:
    environment: str | None = None
    """None: all."""
    dry_run: bool = False


@dataclass(frozen=True)
class Loss:
    """What an environment cannot be restored to afterwards."""

    environment: str
    oldest_before: dt.datetime
    oldest_after: dt.datetime | None
    sources: tuple[str, ...]
    """Sources that no remaining backup has: they could not be restored at all."""

    def json(self) -> dict[str, Json]:
        return {
            "environment": self.environment,
            "oldest_before": iso(self.oldest_before),
            "oldest_after": iso(self.oldest_after) if self.oldest_after else None,
            "sources": list(self.sources),
        }


@dataclass(frozen=True)
class PruneResult:
    dry_run: bool
    removed: tuple[Decision, ...]
    kept: tuple[Decision, ...]
    losses: tuple[Loss, ...]
    grace: dt.timedelta
    report: PruneReport
    seconds: float
    log: tuple[LogPruned, ...] = ()
    """What goes of the write-ahead log, by source; it goes at once."""
    audit_entries: int = 0
    """Entries of the audit log that were older than [audit] keep."""
    run_logs: int = 0

    @property
    def deleted(self) -> list[str]:
        """Ids of backups that an earlier prune condemned, and that are gone for good now."""
        return [backup_of(folder) for folder in self.report.deleted]

    def json(self) -> dict[str, Json]:
        report = self.report
        return {
            "dry_run": self.dry_run,
            "removed": [_decision(d) for d in self.removed],
            "kept": [_decision(d) for d in self.kept],
            "lost": [loss.json() for loss in self.losses],
            "log": [as_json(pruned) for pruned in self.log],
            "abandoned": report.abandoned,
            "packs": {"condemned": report.packs, "bytes": report.bytes, "moved": report.moved},
            "deleted": {"backups": self.deleted, "packs": report.deleted_packs, "bytes": report.deleted_bytes},
            "waiting": report.waiting,
            "record": {"audit": self.audit_entries, "runs": self.run_logs},
            "grace_seconds": int(self.grace.total_seconds()),
            "seconds": round(self.seconds, 3),
        }


def prune(loaded: LoadedPolicy, request: PruneRequest, context: Context) -> PruneResult:
    """Takes what the keep rules no longer hold out of the list, and deletes for good what left it longer than the grace
    time ago. Ages are measured by the store's clock: a wrong clock here deletes nothing.

    Raises UsageError where the policy does not know the environment, Damaged where a manifest cannot be read.
    """
    began = context.clock.monotonic()
    if request.environment is not None:
        loaded.environment(request.environment)
    vault = open_vault(loaded)
    backups = {str(backup.id): backup for backup in vault.backups()}
    now = store_now(vault.store)
    log = look(loaded, vault, request.environment, now)
    plan = decide([kept_of(b) for b in backups.values()], loaded.policy.keep_rules(), now)
    decisions = with_anchors([d for d in plan.decisions if request.environment in {None, d.backup.environment}], log)
    removed = tuple(d for d in decisions if not d.keep)
    kept = tuple(d for d in decisions if d.keep)
    grace = loaded.policy.vault.grace
    report = pruning.prune(
        vault,
        [backups[d.backup.id] for d in removed],
        grace=grace,
        progress=context.progress,
        dry_run=request.dry_run,
    )
    withheld = [
        dataclasses.replace(
            d, keep=True, reason=f"it is damaged, and what it needs is not known (otherwise {d.reason})"
        )
        for d in removed
        if d.backup.id in report.withheld
    ]
    kept, removed = (*kept, *withheld), tuple(d for d in removed if d.backup.id not in report.withheld)
    gone = {d.backup.id for d in removed}
    pruned = log.run(gone, context.progress, dry_run=request.dry_run) if log else []
    entries = runs = 0
    if not request.dry_run:
        kept_for = loaded.policy.audit.keep
        entries = audittrim.trim(vault, kept_for, now, context.progress)
        runs = runlogs.clear(vault, kept_for, now, context.progress)
        renew_locks(vault, context.progress, kept_for)
    losses = _losses([backups[d.backup.id] for d in removed], [backups[d.backup.id] for d in kept])
    seconds = context.clock.monotonic() - began
    return PruneResult(request.dry_run, removed, kept, losses, grace, report, seconds, tuple(pruned), entries, runs)


@dataclass(frozen=True)
class UndoResult:
    back: tuple[str, ...]
    """Ids of the backups that are in the list again."""

    def json(self) -> dict[str, Json]:
        return {"undone": True, "backups": list(self.back)}


def undo(loaded: LoadedPolicy) -> UndoResult:
    """Takes back every prune whose deletion has not begun."""
    return UndoResult(tuple(backup_of(folder) for folder in pruning.undo(open_vault(loaded))))


def kept_of(backup: Backup) -> Kept:
    return Kept(
        str(backup.id),
        backup.id.environment,
        backup.tier,
        backup.time,
        backup.status == "complete",
        backup.proven,
    )


def _decision(decision: Decision) -> dict[str, Json]:
    backup = decision.backup
    return {
        "backup": backup.id,
        "environment": backup.environment,
        "tier": backup.tier,
        "time": iso(backup.time),
        "proven": backup.proven,
        "reason": decision.reason,
    }


def _losses(removed: Sequence[Backup], kept: Sequence[Backup]) -> tuple[Loss, ...]:
    losses = []
    for environment in sorted({backup.id.environment for backup in removed}):
        going = [b for b in removed if b.id.environment == environment]
        staying = [b for b in kept if b.id.environment == environment]
        losses.append(
            Loss(
                environment,
                min(b.time for b in [*going, *staying]),
                min((b.time for b in staying), default=None),
                tuple(sorted(_sources(going) - _sources(staying))),
            )
        )
    return tuple(losses)


def _sources(backups: Sequence[Backup]) -> set[str]:
    return {
        name
        for backup in backups
        for name, source in backup.document["sources"].items()
        if source["status"] == "complete"
    }
