"""Which backups stay and which may go: a pure function of the backups, the rules and the moment."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from keepwell.core import units
from keepwell.policy.models import Keep, KeepRule
from keepwell.policy.tiers import LADDER

Group: TypeAlias = tuple[str, ...]
"""Tiers whose backups are counted together, lowest first."""


@dataclass(frozen=True)
class Kept:
    """What retention needs to know of a backup."""

    id: str
    environment: str
    tier: str
    time: dt.datetime
    complete: bool
    proven: bool


@dataclass(frozen=True)
class Decision:
    backup: Kept
    keep: bool
    reason: str
    """For people: `weekly: 3rd of 12`, `daily: older than 30 days`."""


@dataclass(frozen=True)
class Plan:
    """One decision for every backup, by environment, newest first."""

    decisions: tuple[Decision, ...]

    @property
    def kept(self) -> tuple[Kept, ...]:
        return tuple(decision.backup for decision in self.decisions if decision.keep)

    @property
    def removed(self) -> tuple[Kept, ...]:
        return tuple(decision.backup for decision in self.decisions if not decision.keep)


def decide(backups: Sequence[Kept], keep: Mapping[str, Keep], now: dt.datetime) -> Plan:
    """What `keepwell prune` removes. `keep` has the rules by environment (`Policy.keep_rules`).

    A backup stays when any of these holds:
    1. Its environment has no rules here, or none for its tier: what the policy does not speak of is not removed.
    2. It is its environment's newest proven backup, newest complete backup, or newest backup.
    3. The rule of its tier has an age, and it is not older.
    4. The rule of its tier has a count, and fewer than that many backups of its tier are newer. Incomplete backups never
       push out complete ones: for a complete backup only complete ones are counted; for an incomplete one, whichever are
       more, complete or incomplete ones.
    5. It is weekly or monthly, and 3 or 4 hold by the rule of a lower tier, counted among all backups of that tier and
       higher ones: it took the place of the lower ones that were due with it, so it stays at least as long.
    """
    by_environment: dict[str, list[Kept]] = defaultdict(list)
    for backup in backups:
        by_environment[backup.environment].append(backup)
    decisions: list[Decision] = []
    for environment in sorted(by_environment):
        newest_first = sorted(by_environment[environment], key=lambda b: (b.time, b.id), reverse=True)
        decisions += _decide(newest_first, keep.get(environment), now)
    return Plan(tuple(decisions))


def _decide(newest_first: Sequence[Kept], keep: Keep | None, now: dt.datetime) -> list[Decision]:
    if keep is None:
        reason = "its environment is not in the policy, so no rule removes it"
        return [Decision(backup, True, reason) for backup in newest_first]
    never = _never_removed(newest_first)
    complete: Counter[Group] = Counter()
    incomplete: Counter[Group] = Counter()
    decisions: list[Decision] = []
    for backup in newest_first:
        (complete if backup.complete else incomplete).update({_own(backup), *_ladder(backup, with_own=True)})
        verdicts: list[tuple[bool, str]] = []
        for group in (_own(backup), *_ladder(backup, with_own=False)):
            rank = complete[group] if backup.complete else max(complete[group] + 1, incomplete[group])
            verdicts.append(_verdict(backup, keep.rule(group[0]), group, rank, now))
        stays, reason = next((verdict for verdict in verdicts if verdict[0]), verdicts[0])
        if not stays and backup.id in never:
            stays, reason = True, f"{never[backup.id]} (otherwise {reason})"
        decisions.append(Decision(backup, stays, reason))
    return decisions


def _own(backup: Kept) -> Group:
    return (backup.tier,)


def _ladder(backup: Kept, *, with_own: bool) -> list[Group]:
    """For each tier up to the backup's own: that tier and all higher ones, highest first."""
    if backup.tier not in LADDER:
        return []
    at = LADDER.index(backup.tier) + with_own
    return [LADDER[lower:] for lower in reversed(range(at))]


def _never_removed(newest_first: Sequence[Kept]) -> dict[str, str]:
    """Ids with the reason: the newest backup, the newest complete one, the newest proven one; often one and the same."""
    reasons: dict[str, str] = {}
    for what, fits in (
        ("newest backup", lambda _: True),
        ("newest complete backup", lambda b: b.complete),
        ("newest proven backup", lambda b: b.proven),
    ):
        found = next((backup for backup in newest_first if fits(backup)), None)
        if found is not None:
            reasons[found.id] = f"the {what} of {found.environment}"
    return reasons


def _verdict(backup: Kept, rule: KeepRule | None, group: Group, rank: int, now: dt.datetime) -> tuple[bool, str]:
    tier = group[0]
    if rule is None:
        # Only its own tier's silence protects a backup; a lower tier that says nothing has nothing to add.
        return tier == backup.tier, f"{tier}: there is no rule for this tier"
    place = tier if tier == backup.tier else f"{backup.tier}, stands for {tier}"
    if rule.age is not None and now - backup.time <= rule.age:
        return True, f"{place}: not older than {_span(rule.age)}"
    if rule.count is not None and rank <= rule.count:
        return True, f"{place}: {_ordinal(rank)} of {rule.count}"
    missed = []
    if rule.age is not None:
        missed.append(f"older than {_span(rule.age)}")
    if rule.count is not None:
        missed.append(f"{_ordinal(rank)} where {rule.count} {'is' if rule.count == 1 else 'are'} kept")
    return False, f"{place}: {' and '.join(missed)}"


def _span(age: dt.timedelta) -> str:
    if age >= dt.timedelta(days=1) and not age % dt.timedelta(days=1):
        return f"{age.days} day{'' if age.days == 1 else 's'}"
    return units.show_duration(age.total_seconds())


def _ordinal(number: int) -> str:
    if number % 100 in {11, 12, 13}:
        return f"{number}th"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
