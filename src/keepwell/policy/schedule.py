"""When backups are due: five cron fields in a time zone."""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import re
import zoneinfo

from croniter import croniter
from croniter.croniter import CroniterError

from keepwell.core.clock import UTC

_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_FIELDS = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 7),
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NAMES = {
    3: {name: number for number, name in enumerate(_MONTHS, 1)},
    4: {name: number for number, name in enumerate(_DAYS)},
}
_PART = re.compile(r"(?:\*|([0-9]+|[a-z]{3})(?:-([0-9]+|[a-z]{3}))?)(?:/([0-9]+))?")
_SHOWN = (
    "A schedule has five fields: minute (0-59), hour (0-23), day of the month (1-31), month (1-12), day of the week (0-7, "
    'Sunday is 0 and 7). "0 2 * * *" is daily at 2:00, "0 2 * * 0" Sundays at 2:00, "*/15 * * * *" every 15 minutes.'
)


def zone(name: str) -> dt.tzinfo:
    """The time zone of that name. Raises ValueError where this machine knows none."""
    if name == "UTC":  # also on machines that have no time zone database
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, OSError, ValueError):
        raise ValueError(f"{name!r} is not a time zone") from None


@functools.lru_cache(1024)  # serve asks every few seconds, for every plan
def parse(text: str) -> tuple[str, ...]:
    """The five fields, checked.

    Raises ValueError: the first line says what is wrong, the second shows the five fields.
    """
    if text.strip().lower() in _ALIASES:
        raise ValueError(f"{text!r} is not written as five fields\nWrite {_ALIASES[text.strip().lower()]!r}. {_SHOWN}")
    fields = tuple(text.lower().split())
    if len(fields) != 5:
        raise ValueError(f"{text!r} has {len(fields)} fields instead of five\n{_SHOWN}")
    for number, field in enumerate(fields):
        if problem := _field(number, field):
            raise ValueError(f"{text!r}: {problem}\n{_SHOWN}")
    try:
        croniter(" ".join(fields), dt.datetime(2024, 1, 1, tzinfo=UTC)).get_next(dt.datetime)
    except CroniterError as error:
        what = "never comes: there is no such day" if "find next" in str(error) else f"is not a schedule ({error})"
        raise ValueError(f"{text!r} {what}\n{_SHOWN}") from None
    return fields


def next_due(schedule: str, after: dt.datetime, timezone: str = "UTC") -> dt.datetime:
    """The first due time later than `after`, in UTC.

    A time that the clock skips in spring is due when the clock has jumped; one that comes twice in autumn is due once,
    the first time, unless the schedule is for every hour.
    """
    return _step(schedule, after, timezone, forward=True)


def previous_due(schedule: str, before: dt.datetime, timezone: str = "UTC") -> dt.datetime:
    """The last due time at or earlier than `before`, in UTC."""
    return _step(schedule, before + dt.timedelta(microseconds=1), timezone, forward=False)


def longest_gap(schedule: str, after: dt.datetime, timezone: str = "UTC", count: int = 400) -> dt.timedelta:
    """The longest time between two of the next `count` due times: what is at risk at the most when all goes well."""
    times = [next_due(schedule, after, timezone)]
    while len(times) < count and times[-1] - after < dt.timedelta(days=800):
        times.append(next_due(schedule, times[-1], timezone))
    return max((later - earlier for earlier, later in itertools.pairwise(times)), default=dt.timedelta(0))


def _step(schedule: str, moment: dt.datetime, timezone: str, *, forward: bool) -> dt.datetime:
    fields = parse(schedule)
    local = zone(timezone)
    steps = croniter(" ".join(fields), moment.astimezone(local))
    while True:
        due: dt.datetime = steps.get_next(dt.datetime) if forward else steps.get_prev(dt.datetime)
        again = _is_second_of_two(due)
        if not again or fields[1].startswith("*"):
            return due.astimezone(UTC)


def _is_second_of_two(moment: dt.datetime) -> bool:
    first = moment.replace(fold=0)
    return moment.utcoffset() != first.utcoffset() and moment.replace(fold=1).utcoffset() == moment.utcoffset()


def _field(number: int, field: str) -> str:
    """What is wrong with one field, or nothing."""
    name, lowest, highest = _FIELDS[number]
    for part in field.split(","):
        found = _PART.fullmatch(part)
        if not found:
            return f"{part!r} does not fit the {name} ({lowest} to {highest})"
        first, last, step = found.groups()
        ends = [_NAMES.get(number, {}).get(end, int(end) if end.isdigit() else -1) for end in (first, last) if end]
        if any(not lowest <= end <= highest for end in ends):
            return f"{part!r} does not fit the {name} ({lowest} to {highest})"
        if len(ends) == 2 and ends[0] > ends[1]:
            return f"{part!r} runs backwards"
        if step and not 0 < int(step) <= highest:
            return f"{part!r} has a step that is not between 1 and {highest}"
    return ""
