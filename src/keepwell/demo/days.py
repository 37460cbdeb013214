"""The days of the sample: what the first day puts in, and what a later day appends and changes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from keepwell.core.errors import UsageError
from keepwell.demo import records
from keepwell.demo.records import Batch, Span, Table
from keepwell.demo.texts import Numbers

How: TypeAlias = Literal["recent", "random"]
"""Where a later day changes: `recent` appends and works on the newest rows, `random` works on rows anywhere."""

Load: TypeAlias = "tuple[Table, int, Iterator[Batch]]"
"""A table, about how many rows come for it, and the rows."""


@dataclass(frozen=True)
class State:
    """The last ids in a filled database, and its newest moment."""

    users: int
    leads: int
    activities: int
    newest: dt.datetime


@dataclass
class Changes:
    """Rows per table that a later day appended and changed."""

    appended: dict[str, int] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FirstDay:
    seed: int
    users: int
    leads: int
    activities: int
    contracts: tuple[int, ...]
    """Identifiers of the large objects, for `records.contract`."""

    def loads(self) -> list[Load]:
        """In an order that never refers to what is not there yet."""
        leads = Span(1, self.leads)
        return [
            (records.USERS, self.users, records.users(self.seed, Span(1, self.users))),
            (records.LEADS, self.leads, records.leads(self.seed, leads, self.users)),
            (
                records.ACTIVITIES,
                self.activities,
                records.activities(self.seed, Span(1, self.activities), self.leads, self.users),
            ),
            (
                records.CLOSED_DEALS,
                self.leads // records.LEADS_PER_DEAL,
                records.closed_deals(self.seed, leads, len(self.contracts)),
            ),
        ]


@dataclass(frozen=True)
class LaterDay:
    seed: int
    callers: int
    newest_lead: int
    users: Span
    leads: Span
    activities: Span
    changed_leads: Numbers
    changed_activities: Numbers
    end: int
    """When the day ends, in microseconds."""

    def loads(self) -> list[Load]:
        return [
            (records.USERS, self.users.count, records.users(self.seed, self.users)),
            (records.LEADS, self.leads.count, records.leads(self.seed, self.leads, self.callers)),
            (
                records.ACTIVITIES,
                self.activities.count,
                records.activities(self.seed, self.activities, self.newest_lead, self.callers),
            ),
            (
                records.CLOSED_DEALS,
                self.leads.count // records.LEADS_PER_DEAL,
                records.closed_deals(self.seed, self.leads, contracts=0),
            ),
        ]

    def lead_changes(self) -> Iterator[Batch]:
        return records.lead_changes(self.seed, self.changed_leads, self.end)

    def activity_changes(self) -> Iterator[Batch]:
        return records.activity_changes(self.seed, self.changed_activities)


def first_day(leads: int, seed: int) -> FirstDay:
    """Raises UsageError for a number of leads below one."""
    if leads < 1:
        raise UsageError(f"a sample of {leads} leads cannot be made", hint="Ask for at least one row.")
    if seed < 0:
        raise UsageError(f"{seed} cannot be a seed", hint="Take zero or a positive number.")
    deals = leads // records.LEADS_PER_DEAL
    contracts = min(records.MOST_CONTRACTS, max(1, deals // 100))
    return FirstDay(
        seed,
        users=max(3, leads // records.LEADS_PER_USER),
        leads=leads,
        activities=leads * records.ACTIVITIES_PER_LEAD,
        contracts=tuple(range(records.FIRST_CONTRACT + 1, records.FIRST_CONTRACT + 1 + contracts)),
    )


def later_day(state: State, share: float, how: How, seed: int) -> LaterDay:
    """`share` (above 0, up to 1) of the leads and of the activities; `recent` appends half of that and changes half.

    Raises UsageError for a share or a way that does not exist.
    """
    if not 0 < share <= 1:
        raise UsageError(f"{share} of the rows cannot change", hint="Give a share above 0 and up to 1.")
    if how not in ("recent", "random"):
        raise UsageError(f"{how!r} is no way to change the sample", hint='Take "recent" or "random".')
    newest = records.microseconds(state.newest)
    # A second change with the same seed must not write the same values again.
    day_seed = (seed * 1_000_003 + newest) % 2**63
    begin, end = newest + records.SECOND, newest + records.DAY
    parts = {}
    for name, last in (("users", state.users), ("leads", state.leads), ("activities", state.activities)):
        part = max(1, round(last * share / 2)) if how == "recent" else 0
        parts[name] = Span(last + 1, last + part, begin, end)
    return LaterDay(
        day_seed,
        callers=parts["users"].last,
        newest_lead=parts["leads"].last,
        users=parts["users"],
        leads=parts["leads"],
        activities=parts["activities"],
        changed_leads=_chosen(state.leads, share, how, day_seed),
        changed_activities=_chosen(state.activities, share, how, day_seed),
        end=end,
    )


def _chosen(last: int, share: float, how: How, seed: int) -> Numbers:
    if how == "recent":
        count = max(1, round(last * share / 2))
        return np.arange(max(1, last - count + 1), last + 1)
    rng = np.random.default_rng([seed, 8, last])
    chosen: Numbers = np.sort(rng.choice(last, size=max(1, round(last * share)), replace=False) + 1)
    return chosen
