"""When the vault is looked after, and what happens to a run that failed or was missed."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Field, StrictBool, StrictInt, WithJsonSchema

from keepwell.core.clock import UTC
from keepwell.policy import schedule
from keepwell.policy.values import Span, Table, wrong

NEVER = "never"
_ANY = dt.datetime(2024, 1, 1, tzinfo=UTC)
_LOOKED_AT = 60


def _when(value: str) -> str:
    if value.strip().lower() == NEVER:
        return NEVER
    try:
        schedule.parse(value)
    except ValueError as error:
        what, _, mend = str(error).partition("\n")
        raise wrong(what, f'{mend} Or "never".') from None
    return value


When: TypeAlias = Annotated[
    str,
    AfterValidator(_when),
    WithJsonSchema(
        {"type": "string", "pattern": r"^\s*(never|\S+(\s+\S+){4})\s*$", "examples": ["0 3 * * 0", "never"]}
    ),
]
"""Five cron fields, or `never`."""


def too_much_jitter(cron: str, timezone: str, jitter: dt.timedelta) -> dt.timedelta | None:
    """The shortest time between two due times where the jitter is not shorter: runs could overtake each other."""
    if not jitter:
        return None
    times = [schedule.next_due(cron, _ANY, timezone)]
    for _ in range(_LOOKED_AT):
        times.append(schedule.next_due(cron, times[-1], timezone))
    shortest = min(later - earlier for earlier, later in itertools.pairwise(times))
    return shortest if jitter >= shortest else None


class Schedules(Table):
    """What `keepwell serve` does beside backups and copies. An environment's own part is in its time zone, the vault's in UTC."""

    verify: When = Field(
        default="0 5 * * 0", description="When the newest backup of each environment with a schedule is proven."
    )
    drill: When = Field(
        default="0 9 1 1,4,7,10 *", description="When a recovery of each environment with a schedule is rehearsed."
    )
    prune: When = Field(default="0 3 * * 0", description="When backups that are no longer kept are deleted.")
    check: When = Field(
        default="0 4 * * 0", description="When it is looked whether all objects of the vault are there."
    )
    retries: StrictInt = Field(default=3, ge=0, le=10, description="How often a failed run is tried again.")
    retry_after: Span = Field(
        default="1m",
        validate_default=True,
        description="How long after a failure; each further wait is four times as long, an hour at the most.",
    )
    catch_up: StrictBool = Field(default=True, description="Whether the newest missed run is done after downtime.")
    at_once: StrictInt = Field(
        default=2, ge=1, le=16, description="How many runs one process does side by side, each of another environment."
    )
