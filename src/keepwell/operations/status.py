"""Where each environment stands: the newest proven backup, and the objectives."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from keepwell.core.clock import iso
from keepwell.core.streams import Context, Json
from keepwell.core.units import show_duration
from keepwell.operations.opening import open_vault
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.models import Environment
from keepwell.policy.schedule import next_due, previous_due
from keepwell.vault.catalog import Backup, DamagedBackup, Proof
from keepwell.vault.vault import Vault

State: TypeAlias = Literal["ok", "warn", "fail"]
_LATE = dt.timedelta(hours=1)
"""A due backup may take so long before it is called overdue (the strategy: alert after 25 hours)."""


@dataclass(frozen=True)
class Problem:
    state: State
    text: str


@dataclass(frozen=True)
class EnvironmentStatus:
    environment: str
    now: dt.datetime
    policy: Environment | None
    """None: the vault has backups of it, the policy no longer speaks of it."""
    newest: Backup | None
    proven: Backup | None
    proof: Proof | None
    """The newest of its proofs that counts."""
    failed: Proof | None
    """The newest proof of a backup that is newer than `proven`, where it failed."""
    damaged: tuple[DamagedBackup, ...]
    """Oldest first."""
    due: dt.datetime | None
    overdue_since: dt.datetime | None

    @property
    def at_risk(self) -> dt.timedelta | None:
        """Age of the newest complete backup."""
        return self.now - self.newest.time if self.newest else None

    @property
    def recovery(self) -> float | None:
        """Seconds that the last proof took to restore and check: the measured time to recover."""
        seconds = self.proof.details.get("seconds", {}) if self.proof else {}
        return float(seconds["total"]) if "total" in seconds else None

    def problems(self) -> list[Problem]:
        broken = [Problem("fail", f"{bad.id} is damaged: {bad.message}") for bad in self.damaged]
        if self.policy is None:
            return [*broken, Problem("ok", "not in the policy any more; its backups stay")]
        if self.newest is None:
            return [*broken, Problem("fail", f"there is no complete backup: keepwell backup {self.environment}")]
        found = [*broken, *self._age(), *self._time()]
        if self.overdue_since:
            found.append(Problem("warn", f"a backup is due since {iso(self.overdue_since)}"))
        if self.failed and self.failed.unreadable:
            name = self.failed.name.rpartition("/")[2]
            found.append(
                Problem(
                    "fail",
                    f"{name} of {self.failed.backup} was altered or cut short, so whether it is proven is not known: "
                    f"keepwell verify {self.failed.backup}",
                )
            )
        elif self.failed:
            found.append(Problem("fail", f"the proof of {self.failed.backup} failed: {self.failed.summary}"))
        if self.proven is None:
            found.append(Problem("warn", f"no backup is proven: keepwell verify {self.environment}@latest"))
        return found

    def _age(self) -> list[Problem]:
        assert self.policy is not None
        assert self.at_risk is not None
        goals = self.policy.objectives
        if self.policy.schedule is None:  # by hand: its owner decides how old is too old
            return []
        age = show_duration(self.at_risk.total_seconds())
        if self.at_risk > goals.rpo_max:
            return [Problem("fail", f"{age} of data are at risk, more than the maximum of {_span(goals.rpo_max)}")]
        if self.at_risk > goals.rpo:
            return [Problem("warn", f"{age} of data are at risk, more than the target of {_span(goals.rpo)}")]
        return []

    def _time(self) -> list[Problem]:
        assert self.policy is not None
        goals, took = self.policy.objectives, self.recovery
        if took is None:
            return []
        if took > goals.rto_max.total_seconds():
            return [
                Problem(
                    "fail",
                    f"the last proof took {show_duration(took)}, more than the maximum of {_span(goals.rto_max)}",
                )
            ]
        if took > goals.rto.total_seconds():
            return [
                Problem(
                    "warn", f"the last proof took {show_duration(took)}, more than the target of {_span(goals.rto)}"
                )
            ]
        return []

    @property
    def state(self) -> State:
        states = {problem.state for problem in self.problems()}
        return "fail" if "fail" in states else "warn" if "warn" in states else "ok"

    def json(self) -> dict[str, Json]:
        goals = self.policy.objectives if self.policy else None
        return {
            "environment": self.environment,
            "state": self.state,
            "problems": [problem.text for problem in self.problems()],
            "newest": _point(self.newest, self.now),
            "proven": _point(self.proven, self.now),
            "proof": {"time": iso(self.proof.time), "level": self.proof.level} if self.proof else None,
            "damaged": [{"backup": str(bad.id), "time": iso(bad.time), "damage": bad.message} for bad in self.damaged],
            "schedule": self.policy.schedule if self.policy else None,
            "next_due": iso(self.due) if self.due else None,
            "overdue_since": iso(self.overdue_since) if self.overdue_since else None,
            "data_at_risk": {
                "seconds": int(self.at_risk.total_seconds()) if self.at_risk is not None else None,
                "target": int(goals.rpo.total_seconds()) if goals else None,
                "maximum": int(goals.rpo_max.total_seconds()) if goals else None,
            },
            "recovery": {
                "seconds": round(self.recovery, 3) if self.recovery is not None else None,
                "target": int(goals.rto.total_seconds()) if goals else None,
                "maximum": int(goals.rto_max.total_seconds()) if goals else None,
            },
        }


def status(loaded: LoadedPolicy, context: Context) -> list[EnvironmentStatus]:
    """One of each environment of the policy, then of those that only the vault knows."""
    vault, now = open_vault(loaded), context.clock.now()
    vault.config.require("read")
    catalogue = vault.scan()
    backups, damaged = catalogue.backups, catalogue.damaged
    known = list(loaded.policy.environments)
    known += sorted(({b.id.environment for b in backups} | {b.id.environment for b in damaged}) - set(known))
    return [
        _status(
            vault,
            name,
            loaded.policy.environments.get(name),
            [b for b in backups if b.id.environment == name],
            tuple(bad for bad in damaged if bad.id.environment == name),
            now,
        )
        for name in known
    ]


def _status(
    vault: Vault,
    name: str,
    policy: Environment | None,
    backups: Sequence[Backup],
    damaged: tuple[DamagedBackup, ...],
    now: dt.datetime,
) -> EnvironmentStatus:
    newest = next((b for b in reversed(backups) if b.status == "complete"), None)
    proven = next((b for b in reversed(backups) if b.proven), None)
    proof = next(p for p in reversed(vault.proofs(proven)) if p.counts) if proven else None
    tried = next((b for b in reversed(backups) if b.proofs), None)
    last = next(reversed(vault.proofs(tried)), None) if tried and tried is not proven else None
    due = overdue = None
    if policy is not None and policy.schedule is not None:
        due = next_due(policy.schedule, now, policy.timezone)
        last_due = previous_due(policy.schedule, now, policy.timezone)
        if newest is not None and newest.time < last_due and now - last_due > _LATE:
            overdue = last_due
    failed = last if last is not None and not last.passed else None
    return EnvironmentStatus(name, now, policy, newest, proven, proof, failed, damaged, due, overdue)


def _point(backup: Backup | None, now: dt.datetime) -> dict[str, Json] | None:
    if backup is None:
        return None
    age = int((now - backup.time).total_seconds())
    return {"backup": str(backup.id), "time": iso(backup.time), "age_seconds": age}


def _span(span: dt.timedelta) -> str:
    return show_duration(span.total_seconds())
