"""Which tier a backup gets. Decided when it is taken, never changed after."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from keepwell.core.errors import UsageError
from keepwell.policy import schedule
from keepwell.policy.models import TIERS, Environment, Tier
from keepwell.policy.values import nearest

LADDER: tuple[Tier, ...] = ("daily", "weekly", "monthly")
"""From low to high. A higher one takes the place of the lower ones that are due at the same time."""


def due_tier(now: dt.datetime, previous: Iterable[tuple[dt.datetime, str]], timezone: str = "UTC") -> Tier:
    """The highest tier that is due at `now`.

    `previous` are (time, tier) of the environment's complete backups: an incomplete one does not use up a tier, so the next
    one gets it. Months and weeks are those of the calendar in `timezone`; a week begins on Monday (ISO 8601).
      monthly  no monthly backup of this calendar month is there yet;
      weekly   else, no weekly or monthly backup of this week is there yet (a monthly one stands for its week);
      daily    else.
    Manual backups never count. So the very first backup is monthly, and a schedule of once a week never gives daily ones.
    """
    local = now.astimezone(schedule.zone(timezone))
    months: set[tuple[int, int]] = set()
    weeks: set[tuple[int, int]] = set()
    for time, tier in previous:
        there = time.astimezone(local.tzinfo)
        if tier == "monthly":
            months.add((there.year, there.month))
        if tier in {"monthly", "weekly"}:
            weeks.add(there.isocalendar()[:2])
    if (local.year, local.month) not in months:
        return "monthly"
    return "daily" if local.isocalendar()[:2] in weeks else "weekly"


def choose_tier(
    environment: Environment, now: dt.datetime, previous: Iterable[tuple[dt.datetime, str]], asked: str | None = None
) -> Tier:
    """The tier of a backup taken now: the one `asked` for; else `manual` without a schedule; else `due_tier`.

    Raises UsageError where there is no tier of the name asked for.
    """
    if asked is not None:
        tiers: tuple[Tier, ...] = (*LADDER, "manual")
        for tier in tiers:
            if asked == tier:
                return tier
        raise UsageError(
            f"there is no tier {asked!r}", hint=f"{nearest(asked, TIERS)} The tiers are: {', '.join(TIERS)}.".strip()
        )
    return "manual" if environment.schedule is None else due_tier(now, previous, environment.timezone)
