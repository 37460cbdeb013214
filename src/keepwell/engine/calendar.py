"""What is due when. Pure: no clock is read here. (First form, for backups and copies: helper S replaces it.)"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from keepwell.engine.jobs import Job, Kind
from keepwell.policy.models import Policy
from keepwell.policy.schedule import previous_due


@dataclass(frozen=True)
class Plan:
    kind: Kind
    target: str | None
    cron: str
    timezone: str = "UTC"
    jitter: dt.timedelta = dt.timedelta(0)
    site: str | None = None


def plans(policy: Policy) -> tuple[Plan, ...]:
    backups = [
        Plan("backup", name, env.schedule, env.timezone)
        for name, env in policy.environments.items()
        if env.schedule is not None
    ]
    copies = [
        Plan("copy", copy.name, copy.schedule, copy.timezone) for copy in policy.copies if copy.schedule is not None
    ]
    return (*backups, *copies)


def missed(plan: Plan, last: dt.datetime, now: dt.datetime) -> Job | None:
    """The newest occurrence after `last` and up to `now`."""
    due = previous_due(plan.cron, now, plan.timezone)
    return Job(plan.kind, plan.target, due) if due > last else None
