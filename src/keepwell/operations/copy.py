"""Keeping the copies of the vault in step with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from keepwell.core.errors import Damaged, KeepwellError, StoreError, UsageError
from keepwell.core.streams import Context, Json
from keepwell.operations import wal_retention
from keepwell.operations.locks import renew_locks
from keepwell.operations.opening import open_copy, open_copy_store, open_vault
from keepwell.operations.prune import kept_of
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.models import CopyPolicy
from keepwell.policy.retention import decide
from keepwell.policy.values import nearest
from keepwell.stores.probe import store_now
from keepwell.vault import audittrim, copying, walcopy
from keepwell.vault import prune as pruning
from keepwell.vault.copying import CopyReport
from keepwell.vault.prune import PruneReport
from keepwell.vault.vault import Vault


@dataclass(frozen=True)
class CopyRequest:
    names: tuple[str, ...] = ()
    """Of the copies; empty: all."""
    environment: str | None = None
    """None: all."""


@dataclass(frozen=True)
class CopyOutcome:
    """What became of one copy."""

    store: str
    report: CopyReport = field(default_factory=CopyReport)
    pruned: PruneReport | None = None
    error: str = ""
    hint: str = ""

    @property
    def clean(self) -> bool:
        return not self.error and not self.report.failed

    def json(self) -> dict[str, Json]:
        report = self.report
        found: dict[str, Json] = {
            "store": self.store,
            "status": "failed" if self.error else "complete" if self.clean else "incomplete",
            "backups": report.backups,
            "there": report.there,
            "failed": report.failed,
            "objects": report.objects,
            "bytes": report.bytes,
        }
        return found | ({"error": self.error, "hint": self.hint} if self.error else {})


@dataclass(frozen=True)
class CopyResult:
    copies: dict[str, CopyOutcome]
    seconds: float

    @property
    def clean(self) -> bool:
        return all(outcome.clean for outcome in self.copies.values())

    def json(self) -> dict[str, Json]:
        return {
            "status": "complete" if self.clean else "incomplete",
            "copies": {name: outcome.json() for name, outcome in self.copies.items()},
            "seconds": round(self.seconds, 3),
        }


def copy(loaded: LoadedPolicy, request: CopyRequest, context: Context) -> CopyResult:
    """Brings every copy up to date; one that fails does not hold up the others, and where all fail the first error is
    raised. What a copy's own rules no longer keep is let go there, in two phases as in the vault.

    Raises UsageError, StoreError, VaultKeyError, Damaged.
    """
    began = context.clock.monotonic()
    chosen = _chosen(loaded, request)
    near = open_vault(loaded)
    done: dict[str, CopyOutcome] = {}
    errors: list[KeepwellError] = []
    for policy in chosen:
        context.progress.note(f"Copying to {policy.name} ({policy.store})")
        try:
            done[policy.name] = _bring(loaded, near, policy, request, context)
        except (StoreError, UsageError, Damaged) as error:
            errors.append(error)
            done[policy.name] = CopyOutcome(policy.store, error=error.message, hint=error.hint)
            context.progress.warn(f"the copy {policy.name} is not up to date: {error.message}")
    if len(errors) == len(chosen):
        raise errors[0]
    return CopyResult(done, context.clock.monotonic() - began)


def _bring(
    loaded: LoadedPolicy, near: Vault, policy: CopyPolicy, request: CopyRequest, context: Context
) -> CopyOutcome:
    store = open_copy_store(loaded, policy, create=True)
    copying.found(near, store)
    far = open_copy(loaded, store)
    backups = near.backups()
    rules = loaded.policy.keep_rules(policy)
    plan = decide([kept_of(backup) for backup in backups], rules, store_now(store))
    # Also those that recovery to any moment of a source's window begins with, whatever the copy's rules are.
    decisions = wal_retention.with_anchors(
        plan.decisions, wal_retention.look(loaded, near, request.environment, store_now(store))
    )
    wanted = {d.backup.id for d in decisions if d.keep and request.environment in {None, d.backup.environment}}
    report = copying.copy(near, far, [b for b in backups if str(b.id) in wanted], context.progress)
    brought = audittrim.copy(near, far, context.progress)
    report.objects += brought.objects
    report.bytes += brought.bytes
    report.failed |= brought.failed
    _bring_log(loaded, near, far, request, report, context)
    there = far.backups()
    now = store_now(store)
    log = wal_retention.look(loaded, far, None, now)
    old = wal_retention.with_anchors(decide([kept_of(backup) for backup in there], rules, now).decisions, log)
    gone = {d.backup.id for d in old if not d.keep}
    grace = loaded.policy.vault.grace
    pruned = pruning.prune(far, [b for b in there if str(b.id) in gone], grace=grace, progress=context.progress)
    if log is not None:
        log.run(gone, context.progress, dry_run=False)
    renew_locks(far, context.progress, loaded.policy.audit.keep)
    return CopyOutcome(store.url, report, pruned)


def _bring_log(
    loaded: LoadedPolicy, near: Vault, far: Vault, request: CopyRequest, report: CopyReport, context: Context
) -> None:
    """What the backups of the copy need of the log, and its window."""
    log = wal_retention.look(loaded, far, request.environment, store_now(far.store), log_of=near)
    if log is None:
        return
    folders = ["wal/"] if request.environment is None else [f"wal/{request.environment}/"]
    brought = walcopy.copy(near, far, folders, log.unneeded(), context.progress)
    report.objects += brought.objects
    report.bytes += brought.bytes
    report.failed |= brought.failed


def _chosen(loaded: LoadedPolicy, request: CopyRequest) -> list[CopyPolicy]:
    if request.environment is not None:
        loaded.environment(request.environment)
    known = {policy.name: policy for policy in loaded.policy.copies}
    if not known:
        raise UsageError(
            "the policy has no copies",
            hint="Add a table [[copies]] with a name and a store (docs/reference/policy.md).",
        )
    for name in request.names:
        if name not in known:
            raise UsageError(
                f"the policy has no copy {name!r}", hint=f"{nearest(name, known)} There is: {', '.join(known)}.".strip()
            )
    return [known[name] for name in request.names or known]
