"""Whether what is locked against deletion stays locked for as long as the rules keep it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from keepwell.core import units
from keepwell.policy.keep import Keep
from keepwell.policy.values import wrong

if TYPE_CHECKING:
    from pydantic_core import PydanticCustomError

    from keepwell.policy.models import Policy

_EVERY = {"daily": dt.timedelta(days=1), "weekly": dt.timedelta(weeks=1), "monthly": dt.timedelta(days=31)}
"""How far backups of a tier are apart, to tell how long a number of them lasts."""


def too_short(policy: Policy) -> PydanticCustomError | None:
    """The error to raise where a lock is shorter than a rule that keeps backups in its vault; None where none is."""
    places: list[tuple[tuple[str, ...], dt.timedelta | None, Mapping[str, Keep]]] = [
        (("vault",), policy.vault.lock, policy.keep_rules())
    ]
    places += [(("copies", str(n)), copy.lock, policy.keep_rules(copy)) for n, copy in enumerate(policy.copies)]
    for at, lock, rules in places:
        if lock is None:
            continue
        for environment, tier, period in _longest(rules):
            if period > lock:
                long = units.show_duration(period.total_seconds())
                return wrong(
                    f"is {units.show_duration(lock.total_seconds())}, and {tier} backups of {environment} are kept for "
                    f"{long}: in the rest of that time they could be deleted",
                    f'Write lock = "{-(-period // dt.timedelta(days=1))}d", or keep these backups for a shorter time.',
                    (*at, "lock"),
                )
    return None


def _longest(rules: Mapping[str, Keep]) -> Iterator[tuple[str, str, dt.timedelta]]:
    for environment, keep in rules.items():
        for tier in ("daily", "weekly", "monthly", "manual"):
            rule = keep.rule(tier)
            if rule is None:
                continue
            counted = _EVERY[tier] * rule.count if rule.count and tier in _EVERY else dt.timedelta(0)
            yield environment, tier, max(rule.age or dt.timedelta(0), counted)
