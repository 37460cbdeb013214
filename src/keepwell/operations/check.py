"""Whether a vault is whole: its structure, every byte, or a rotating share of the bytes."""

from __future__ import annotations

from dataclasses import dataclass

from keepwell.core.streams import Context, Json
from keepwell.operations.listing import backup_of
from keepwell.operations.opening import open_vault
from keepwell.policy.load import LoadedPolicy
from keepwell.vault import check as checking
from keepwell.vault.check import CheckReport


@dataclass(frozen=True)
class CheckRequest:
    data: bool = False
    """Every byte."""
    share: int | None = None
    """One part of so many, another one each time."""


@dataclass(frozen=True)
class CheckResult:
    store: str
    report: CheckReport
    seconds: float

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
        }


def check(loaded: LoadedPolicy, request: CheckRequest, context: Context) -> CheckResult:
    """Raises StoreError where the store cannot be read; damage is in the result."""
    began = context.clock.monotonic()
    vault = open_vault(loaded)
    report = checking.check(
        vault, progress=context.progress, now=context.clock.now(), data=request.data, share=request.share
    )
    return CheckResult(vault.store.url, report, context.clock.monotonic() - began)
