"""When backups are due: five cron fields in a time zone."""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import re
import zoneinfo
from typing import NamedTuple

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
_DAY = dt.timedelta(days=1)
_FARTHEST = 366 * 8 + 3
"""Days: of the rarest, February 29th, there is one in eight years where a century is not a leap year."""
_SHOWN = (
    "A schedule has five fields: minute (0-59), hour (0-23), day of the month (1-31), month (1-12), day of the week (0-7, "
    'Sunday is 0 and 7). "0 2 * * *" is daily at 2:00, "0 2 * * 0" Sundays at 2:00, "*/15 * * * *" every 15 minutes.'
)


class _Fields(NamedTuple):
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int] | None
    months: frozenset[int] | None
    weekdays: frozenset[int] | None
    """Sunday is 0."""
    every_hour: bool

    def on(self, day: dt.date) -> bool:
        """Whether something is due on that day. If both days are given, either is enough, as with cron."""
        if self.months is not None and day.month not in self.months:
            return False
        fits = day.isoweekday() % 7 in (self.weekdays or ())
        if self.days is None:
            return self.weekdays is None or fits
        return day.day in self.days or fits


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
    from croniter import croniter  # here and below, since most runs need no schedule
    from croniter.croniter import CroniterError

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
    fields, local = _fields(parse(schedule)), zone(timezone)
    # A local day lies within a day of the same day in UTC, so the answer may be on the day before or after.
    day = moment.astimezone(local).date() - _DAY * (1 if forward else -1)
    for number in range(_FARTHEST):
        this = day + _DAY * (number if forward else -number)
        if not fields.on(this):
            continue
        found = [time for time in _times(fields, local, this) if (time > moment if forward else time < moment)]
        if found:
            return found[0] if forward else found[-1]
    raise ValueError(f"{schedule!r} never comes")


@functools.lru_cache(1024)
def _fields(fields: tuple[str, ...]) -> _Fields:
    from croniter import croniter

    minutes, hours, days, months, weekdays = (
        None if values == ["*"] else frozenset(map(int, values)) for values in croniter.expand(" ".join(fields))[0]
    )
    return _Fields(
        tuple(sorted(minutes or range(60))),
        tuple(sorted(hours or range(24))),
        days,
        months,
        weekdays,
        fields[1].startswith("*"),
    )


@functools.lru_cache(1024)
def _times(fields: _Fields, local: dt.tzinfo, day: dt.date) -> tuple[dt.datetime, ...]:
    """What is due on that local day, in UTC, in order."""
    found = set()
    midnight = dt.datetime.combine(day, dt.time())
    for minutes in (60 * hour + minute for hour in fields.hours for minute in fields.minutes):
        wall = midnight + dt.timedelta(minutes=minutes)
        first, second = (wall.replace(tzinfo=local, fold=fold).astimezone(UTC) for fold in (0, 1))
        if first <= second:
            found |= {first, second} if fields.every_hour else {first}
        elif not fields.every_hour:  # the clock jumps over this time; of a schedule for every hour the next is soon
            found.add(_jump(local, second, first))
    return tuple(sorted(found))


def _jump(local: dt.tzinfo, before: dt.datetime, after: dt.datetime) -> dt.datetime:
    """The first moment after `before` with the offset of `after`, to the minute."""
    offset = after.astimezone(local).utcoffset()
    while after - before > dt.timedelta(minutes=1):
        middle = before + (after - before) // dt.timedelta(minutes=2) * dt.timedelta(minutes=1)
        if middle.astimezone(local).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return after


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
