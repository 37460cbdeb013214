"""A drill: a recovery of a whole environment, rehearsed as on a new machine, and timed against the objectives.

It is a proof at the highest level whose clock runs from the opening of the vault on. Its record is that of a proof, with `drill` in
its details (docs/format.md, section 7).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

from keepwell.core.errors import BackupNotFound
from keepwell.core.streams import Context, Json
from keepwell.core.units import show_duration
from keepwell.core.workfolder import WorkFolder
from keepwell.operations.opening import credential_of, open_store_of
from keepwell.operations.verify import VerifyRequest, VerifyResult, examine, keep
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.models import Environment, Objectives
from keepwell.policy.schedule import longest_gap
from keepwell.proof.levels import LEVELS
from keepwell.vault.catalog import Backup
from keepwell.vault.vault import Vault

_NEEDED = ("sandbox", "restore", "examine", "checks")
"""Phases of a proof that a recovery has as well; the others compare, which nobody waits for on the day."""


@dataclass(frozen=True)
class DrillRequest:
    environment: str
    backup: str | None = None
    """As `Vault.find` takes it. None: the newest that is proven, since that is what one would take; else the newest."""


@dataclass(frozen=True)
class DrillResult:
    proof: VerifyResult
    took: Mapping[str, float]
    """Seconds of the recovery by phase: `open` (vault found, unlocked and listed), then those of the restore."""
    at_risk: dt.timedelta
    """Age of the recovery point when the drill began: what had happened since would be lost."""
    objectives: Objectives
    record: str = ""
    """The name of the record in the vault."""
    warnings: tuple[str, ...] = field(default=())
    judged: tuple[str, ...] = ("rto", "rto_max", "rpo", "rpo_max")
    """The objectives that count. Data at risk that nobody wrote an objective for are what the schedule makes them."""

    @property
    def recovery(self) -> dt.timedelta:
        """The measured time to recover."""
        return dt.timedelta(seconds=sum(self.took.values()))

    @property
    def failures(self) -> list[str]:
        """Why the drill failed: the data are not what they were, or a maximum was missed."""
        wrong = [f"{f.what}: {f.problem}" for source in self.proof.sources.values() for f in source.findings]
        return wrong + self._beyond("rto_max", "rpo_max")

    @property
    def misses(self) -> list[str]:
        """Targets that were missed."""
        return self._beyond("rto", "rpo")

    @property
    def passed(self) -> bool:
        return not self.failures

    def _beyond(self, rto: str, rpo: str) -> list[str]:
        limits = ((rto, self.recovery, "the recovery took"), (rpo, self.at_risk, "the data at risk are"))
        return [
            f"{what} {show_duration(found.total_seconds())}; {name} is "
            f"{show_duration(getattr(self.objectives, name).total_seconds())}"
            for name, found, what in limits
            if name in self.judged and found > getattr(self.objectives, name)
        ]

    def measured(self) -> dict[str, Json]:
        """What the record says beyond that of a proof."""
        goals = self.objectives
        return {
            "recovery_seconds": round(self.recovery.total_seconds(), 3),
            "phases": {name: round(seconds, 3) for name, seconds in self.took.items()},
            "data_at_risk_seconds": round(self.at_risk.total_seconds(), 3),
            "objectives": {
                name: int(getattr(goals, name).total_seconds()) for name in ("rto", "rto_max", "rpo", "rpo_max")
            },
            "passed": self.passed,
            "failures": list(self.failures),
            "missed_targets": list(self.misses),
        }

    def json(self) -> dict[str, Json]:
        return self.measured() | {
            "backup": self.proof.backup,
            "environment": self.proof.environment,
            "warnings": list(self.warnings),
            "record": self.record,
            "proof": self.proof.json(),
        }


def drill(loaded: LoadedPolicy, request: DrillRequest, context: Context) -> DrillResult:
    """A drill that failed is a result, and is recorded like one that passed. Raises as `verify` does; then nothing was recorded."""
    environment = loaded.environment(request.environment)
    objectives, judged = environment.objectives, _judged(environment, context.clock.now())
    began, started = context.clock.now(), context.clock.monotonic()
    # A machine that has never seen the vault: what is kept at hand here would make the recovery look faster.
    with WorkFolder("drill") as folder:
        vault = Vault.open(open_store_of(loaded), credential_of(loaded), cache=folder)
        backup, warnings = _chosen(vault, request)
        opened = context.clock.monotonic() - started
        for text in warnings:
            context.progress.warn(text)
        asked = VerifyRequest(str(backup.id), LEVELS[-1])
        proof = examine(loaded, vault, backup, asked, context, started=started)
        took = {"open": opened} | {name: proof.seconds[name] for name in _NEEDED if name in proof.seconds}
        result = DrillResult(
            proof, took, max(began - backup.time, dt.timedelta(0)), objectives, "", tuple(warnings), judged
        )
        record = keep(vault, backup, proof, context, {"drill": result.measured()})
    return dataclasses.replace(result, record=record)


def _judged(environment: Environment, now: dt.datetime) -> tuple[str, ...]:
    """As the watch judges (data-at-risk): a weekly schedule fails no drill by the default of 24 hours."""
    goals = environment.objectives
    seldom = environment.schedule is not None and (
        longest_gap(environment.schedule, now, environment.timezone, 60) > goals.rpo_max
    )
    return tuple(
        name
        for name in ("rto", "rto_max", "rpo", "rpo_max")
        if name.startswith("rto") or not seldom or name in goals.model_fields_set
    )


def _chosen(vault: Vault, request: DrillRequest) -> tuple[Backup, list[str]]:
    if request.backup is not None:
        found = vault.find(request.backup if "@" in request.backup else f"{request.environment}@{request.backup}")
        return found, []
    there = vault.scan(request.environment).backups
    whole = [backup for backup in there if backup.status == "complete"]
    proven = [backup for backup in whole if backup.proven]
    if not whole:
        raise BackupNotFound(
            f"there is no complete backup of {request.environment} to rehearse with",
            hint=f"Take one: keepwell backup {request.environment}",
        )
    if not proven:
        return whole[-1], [f"no backup of {request.environment} is proven; the newest is taken"]
    if proven[-1].id != whole[-1].id:
        return proven[-1], [f"{whole[-1].id} is newer, but not proven: {proven[-1].id} is taken"]
    return proven[-1], []
