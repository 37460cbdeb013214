"""What the policy wants done, and when. Pure: nothing here reads a clock, so that every machine computes the same."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from keepwell.engine.jobs import Job, Kind
from keepwell.policy.models import Policy
from keepwell.policy.schedule import next_due, previous_due

PROOF = "0 5 * * 0"
"""Sundays: the newest backup of every environment that has a schedule is proven."""
PRUNE = "0 3 * * 0"
"""Sundays: the strategy's weekly clean-up."""
CHECK = "0 4 * * 0"
"""Sundays: whether all objects of the vault are there."""


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
    found: list[Plan] = []
    for name, environment in policy.environments.items():
        if environment.schedule is not None:
            found.append(
                Plan(
                    "backup", name, environment.schedule, environment.timezone, site=getattr(environment, "site", None)
                )
            )
    found.append(Plan("prune", None, PRUNE))
    found.append(Plan("check", None, CHECK))
    found += [Plan("copy", copy.name, copy.schedule, copy.timezone) for copy in policy.copies if copy.schedule]
    found += [
        Plan("verify", plan.target, PROOF, plan.timezone, site=plan.site) for plan in found if plan.kind == "backup"
    ]
    return tuple(found)


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
