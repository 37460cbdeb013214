"""What rules share: keys of troubles that others are a part of, and when a backup is missing."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from keepwell.core.units import show_duration
from keepwell.policy.schedule import next_due, previous_due

if TYPE_CHECKING:
    from keepwell.watch.seen import EnvironmentSeen

SETTLE = dt.timedelta(hours=1)
"""After a trouble is over, what was a part of it has so long to mend before anybody is told of it."""
STORE, AWAY, CLOCK = "store-unreachable:store", "watch-away:watch", "clock-off:clock"
STORE_KINDS = frozenset({"StoreError", "StoreFull", "StoreDenied", "UnsafeStore", "ObjectExists", "ObjectMissing"})


def missing_since(env: EnvironmentSeen, made: dt.datetime | None, now: dt.datetime) -> dt.datetime | None:
    """The first due time that has no complete backup since, its grace time over; None: all is well."""
    if env.schedule is None:
        return None
    due = previous_due(env.schedule, now - env.grace, env.timezone)
    newest = env.newest
    if newest is None:
        return None if made is not None and due < made else due
    if newest.time >= due:
        return None
    return next_due(env.schedule, newest.time, env.timezone)


def span(length: dt.timedelta) -> str:
    return show_duration(max(0.0, length.total_seconds())).removesuffix(" 0 min").removesuffix(" 0 s")
