"""What runs next, and when: for people."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from keepwell.core.clock import iso
from keepwell.engine import calendar
from keepwell.engine.calendar import Plan
from keepwell.policy.models import Policy
from keepwell.policy.schedule import next_due


@dataclass(frozen=True)
class Entry:
    """One plan and its next occurrence; of a copy that follows every backup only its name."""

    kind: str
    target: str | None
    plan: Plan | None = None
    due: dt.datetime | None = None
    begins: dt.datetime | None = None
    """With its share of the jitter."""

    def json(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "kind": self.kind,
            "target": self.target,
            "due": iso(self.due) if self.due else None,
            "begins": iso(self.begins) if self.begins else None,
            "schedule": plan.cron if plan else None,
            "timezone": plan.timezone if plan else None,
            "jitter_seconds": plan.jitter.total_seconds() if plan else 0.0,
            "site": plan.site if plan else None,
            "catch_up": plan.catch_up if plan else False,
        }


def agenda(policy: Policy, now: dt.datetime, sites: tuple[str, ...] = ()) -> tuple[Entry, ...]:
    """Every plan by the time at which it begins next, then the copies that follow backups. `sites`: only of these."""
    found = [_next(plan, now) for plan in calendar.plans(policy) if not sites or plan.site in sites]
    found.sort(key=lambda entry: entry.begins or now)
    if not sites:
        found += [Entry("copy", copy.name) for copy in policy.copies if copy.after_backup]
    return tuple(found)


def by_hand(policy: Policy) -> tuple[str, ...]:
    """The environments that nothing backs up by itself."""
    planned = {plan.target for plan in calendar.plans(policy) if plan.kind == "backup"}
    return tuple(name for name in policy.environments if name not in planned)


def _next(plan: Plan, now: dt.datetime) -> Entry:
    due = next_due(plan.cron, now - plan.jitter, plan.timezone)
    while calendar.begins(plan, due) <= now:  # one that is due already may begin only now, for its jitter
        due = next_due(plan.cron, due, plan.timezone)
    return Entry(plan.kind, plan.target, plan, due, calendar.begins(plan, due))
