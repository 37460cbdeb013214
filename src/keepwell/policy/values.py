"""Kinds of values that keepwell.toml is made of, with errors that say what is wrong and show the mend."""

from __future__ import annotations

import datetime as dt
import difflib
import re
import zoneinfo
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

from keepwell.core import units
from keepwell.policy import schedule

Tier: TypeAlias = Literal["daily", "weekly", "monthly", "manual"]
Level: TypeAlias = Literal["objects", "restore", "round-trip", "checks"]
"""How far `verify` goes; each level includes those before it."""

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
MIB = 1 << 20


class Table(BaseModel):
    """A table of the policy: it never changes after loading, and a key that it does not know is an error."""

    # Deferred: what validates a table within another is made once, for the policy as a whole.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)


def wrong(what: str, hint: str = "", at: tuple[str, ...] = ()) -> PydanticCustomError:
    """What a validator raises: `what` follows the key's path and a colon; `at` are the keys below where it is."""
    return PydanticCustomError("keepwell", "{what}", {"what": what, "hint": hint, "at": at})


def nearest(text: str, known: Iterable[str]) -> str:
    """`Did you mean "weekly"?`, or nothing."""
    found = difflib.get_close_matches(text, list(known), 1, 0.6)
    return f'Did you mean "{found[0]}"?' if found else ""


def _duration(value: Any) -> dt.timedelta:
    if isinstance(value, dt.timedelta):
        return value
    if not isinstance(value, str):
        raise wrong("is not a duration", 'Write a number and its unit in quotes, for example "30d", "12w" or "4h".')
    try:
        return units.duration(value)
    except ValueError as error:
        raise wrong(str(error)) from None
    except OverflowError:
        raise wrong("is longer than time can be counted", 'Write for example "7y".') from None


def _more_than_nothing(value: dt.timedelta) -> dt.timedelta:
    if not value:
        raise wrong("must be longer than nothing", 'Write for example "24h".')
    return value


def _size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise wrong("is not a size", 'Write for example "32 MiB".')
    try:
        return units.size(value)
    except ValueError as error:
        raise wrong(str(error)) from None


def _pack_size(value: int) -> int:
    if not MIB <= value <= 64 * MIB:
        raise wrong("must lie between 1 MiB and 64 MiB", 'Leave it out for the default, "32 MiB".')
    return value


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise wrong(
            "is not a name that keepwell can use",
            "Names are 1 to 40 of a-z, 0-9, _ and -, and begin with a letter or a digit: they become folders in the store.",
        )
    return value


def _schedule(value: str) -> str:
    try:
        schedule.parse(value)
    except ValueError as error:
        what, _, hint = str(error).partition("\n")
        raise wrong(what, hint) from None
    return value


def _timezone(value: str) -> str:
    try:
        schedule.zone(value)
    except ValueError:
        known = zoneinfo.available_timezones()
        near = nearest(value, known) or 'Write for example "UTC" or "Europe/Berlin".'
        raise wrong(
            f"{value!r} is not a time zone",
            near if known else "This machine has no time zones: install the package tzdata, or use UTC.",
        ) from None
    return value


def _path(value: Any, info: ValidationInfo) -> Path:
    if isinstance(value, str) and value and "\0" not in value:
        return absolute(Path(value), info.context)
    if isinstance(value, Path):
        return value
    raise wrong("is not a path", 'Write it in quotes: path = "/srv/app/uploads".')


def absolute(path: Path, context: Any) -> Path:
    """Relative to the policy's folder where that is known (`load` says it); `~` is the user's home."""
    try:
        path = path.expanduser()
    except RuntimeError:
        raise wrong("has a ~ that stands for no known home folder", "Write the whole path.") from None
    base = (context or {}).get("base")
    return path if base is None else Path(base) / path


Duration: TypeAlias = Annotated[
    dt.timedelta,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "pattern": r"^\s*(\d+\s*(s|m|h|d|w|y)\s*)+$", "examples": ["4h", "30d", "7y"]}),
]
Span: TypeAlias = Annotated[Duration, AfterValidator(_more_than_nothing)]
"""A duration that is not zero."""
PackSize: TypeAlias = Annotated[
    int,
    BeforeValidator(_size),
    AfterValidator(_pack_size),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string"}, {"type": "integer", "minimum": MIB, "maximum": 64 * MIB}],
            "examples": ["32 MiB"],
        }
    ),
]
Name: TypeAlias = Annotated[
    str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME.pattern}$"})
]
Schedule: TypeAlias = Annotated[
    str,
    AfterValidator(_schedule),
    WithJsonSchema({"type": "string", "pattern": r"^\s*\S+(\s+\S+){4}\s*$", "examples": ["0 2 * * *", "0 2 * * 0"]}),
]
Timezone: TypeAlias = Annotated[
    str, AfterValidator(_timezone), WithJsonSchema({"type": "string", "examples": ["UTC", "Europe/Berlin"]})
]
PolicyPath: TypeAlias = Annotated[
    Path,
    BeforeValidator(_path),
    WithJsonSchema({"type": "string", "minLength": 1, "description": "A path; relative to the policy file."}),
]
