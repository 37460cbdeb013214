"""Whether a vault is whole: its structure, every byte, or a rotating share of the bytes."""

from __future__ import annotations

from dataclasses import dataclass

from keepwell.core.errors import UsageError
from keepwell.core.streams import Context, Json
from keepwell.operations.listing import backup_of
from keepwell.operations.opening import open_copies, open_vault
from keepwell.policy.load import LoadedPolicy
from keepwell.vault import check as checking
from keepwell.vault.check import CheckReport
from keepwell.vault.repair import RepairReport, repair


@dataclass(frozen=True)
class CheckRequest:
    data: bool = False
    """Every byte."""
    share: int | None = None
    """One part of so many, another one each time."""
    repair: bool = False
    """Put back from the copies what is missing or altered, and look again."""


@dataclass(frozen=True)
class CheckResult:
    store: str
    report: CheckReport
    seconds: float
    repair: RepairReport | None = None

    @property
    def passed(self) -> bool:
        return self.report.passed

    @property
    def affected(self) -> list[str]:
        """Ids of the backups that cannot be restored whole."""
        return [backup_of(folder) for folder in self.report.affected]

    def json(self) -> dict[str, Json]:
        report = self.report
        return {
            "store": self.store,
            "passed": report.passed,
            "depth": report.depth,
            "share": report.share,
            "backups": report.backups,
            "packs": report.packs,
            "objects": report.objects,
            "bytes_read": report.bytes_read,
            "findings": [{"what": f.what, "problem": f.problem} for f in report.findings],
            "affected": self.affected,
            "notes": report.notes,
            "seconds": round(self.seconds, 3),
        } | ({"repaired": self.repair.repaired, "left": self.repair.left} if self.repair else {})


def check(loaded: LoadedPolicy, request: CheckRequest, context: Context) -> CheckResult:
    """Raises StoreError where the store cannot be read, UsageError where a repair has no copy to repair from; damage is in
    the result.
    """
    began = context.clock.monotonic()
    if request.repair and not loaded.policy.copies:
        raise UsageError(
            "there is nothing to repair from: the policy has no copies",
            hint="See [[copies]] in docs/reference/policy.md.",
        )
    vault = open_vault(loaded)

    def look() -> CheckReport:
        return checking.check(
            vault, progress=context.progress, now=context.clock.now(), data=request.data, share=request.share
        )

    report, mended = look(), None
    if request.repair and report.findings:
        mended = repair(vault, report.findings, open_copies(loaded, context.progress))
        report = look() if mended.repaired else report
    return CheckResult(vault.store.url, report, context.clock.monotonic() - began, mended)
