"""What the policy wants done, and when. Pure: nothing here reads a clock, so that every machine computes the same."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from keepwell.engine.jobs import Job, Kind
from keepwell.policy.models import Policy
from keepwell.policy.schedule import next_due, previous_due
from keepwell.policy.schedules import NEVER


@dataclass(frozen=True)
class Plan:
    """Something that is done again and again."""

    kind: Kind
    target: str | None
    """The environment, or the copy; None: the whole vault."""
    cron: str
    timezone: str = "UTC"
    jitter: dt.timedelta = dt.timedelta(0)
    """A run begins up to so much after its due time, always the same for one occurrence."""
    site: str | None = None
    catch_up: bool = True
    """Whether a run that was missed is done later."""


def plans(policy: Policy) -> tuple[Plan, ...]:
    """In the order in which they are enqueued where several are due at once."""
    own = [(name, table) for name, table in policy.environments.items() if table.schedule is not None]
    when = policy.schedules
    found = [
        Plan("backup", name, table.schedule or NEVER, table.timezone, table.jitter, table.site) for name, table in own
    ]
    found += [Plan("prune", None, when.prune), Plan("check", None, when.check)]
    found += [Plan("copy", copy.name, copy.schedule or NEVER, copy.timezone) for copy in policy.copies]
    found += [Plan("verify", name, when.verify, table.timezone, table.jitter, table.site) for name, table in own]
    found += [Plan("drill", name, when.drill, table.timezone, table.jitter, table.site) for name, table in own]
    return tuple(dataclasses.replace(plan, catch_up=when.catch_up) for plan in found if plan.cron != NEVER)


def occurrences(plan: Plan, after: dt.datetime, until: dt.datetime) -> Iterator[Job]:
    """What is due later than `after` and not later than `until`, oldest first."""
    due = next_due(plan.cron, after, plan.timezone)
    while due <= until:
        yield Job(plan.kind, plan.target, due)
        due = next_due(plan.cron, due, plan.timezone)


def missed(plan: Plan, last: dt.datetime, now: dt.datetime) -> Job | None:
    """The newest occurrence that may begin now, and was not yet to begin at `last`. Older ones are not made up for."""
    due = previous_due(plan.cron, now, plan.timezone)
    while now - due <= plan.jitter and begins(plan, due) > now:  # not yet: then perhaps the one before
        due = previous_due(plan.cron, due - dt.timedelta(microseconds=1), plan.timezone)
    return Job(plan.kind, plan.target, due) if begins(plan, due) > last else None


def begins(plan: Plan, due: dt.datetime) -> dt.datetime:
    """When the occurrence begins: its due time and its share of the jitter, the same on every machine."""
    digest = hashlib.sha256(Job(plan.kind, plan.target, due).ident.encode()).digest()
    return due + plan.jitter * (int.from_bytes(digest[:4]) / 2**32)
