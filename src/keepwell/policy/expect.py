"""What a check's query is expected to answer: `= 0`, `> 10`, `between 1 and 5`, `= 'done'`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

Wanted: TypeAlias = Decimal | str | bool | None

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_SIMPLE = re.compile(rf"(==|=|!=|<>|<=|>=|<|>)\s*({_NUMBER}|'(?:[^']|'')*'|true|false|null)", re.IGNORECASE)
_BETWEEN = re.compile(rf"between\s+({_NUMBER})\s+and\s+({_NUMBER})", re.IGNORECASE)
_SHOWN = 'write for example "= 0", "> 10", "!= 0", "between 1 and 5" or "= \'done\'"'


@dataclass(frozen=True)
class Expect:
    """An expectation; `str()` gives it as it was written."""

    text: str
    operator: str
    """=, !=, <, <=, >, >= or between"""
    wanted: tuple[Wanted, ...]

    def __str__(self) -> str:
        return self.text

    def holds(self, value: Any) -> bool:
        """Whether the first column of the first row is as expected; None is SQL's null, or no row at all.

        Null fulfils only `= null`, as in SQL: a check that found nothing must not pass by accident. A text that is not a
        number fulfils no comparison with one except `!=`.
        """
        if self.operator == "between":
            number = _number(value)
            low, high = self.wanted
            return (
                number is not None and isinstance(low, Decimal) and isinstance(high, Decimal) and low <= number <= high
            )
        wanted = self.wanted[0]
        if value is None or wanted is None:
            return wanted is None and (value is None) == (self.operator == "=")
        given: Any = _as(wanted, value)
        if given is None:
            return self.operator == "!="
        return _COMPARE[self.operator](given, wanted)


def parse(text: str) -> Expect:
    """Raises ValueError with a text that shows the forms."""
    written = text.strip()
    if found := _BETWEEN.fullmatch(written):
        low, high = Decimal(found[1]), Decimal(found[2])
        if low > high:
            raise ValueError(f"{text!r} can never hold: {low} is more than {high}")
        return Expect(written, "between", (low, high))
    found = _SIMPLE.fullmatch(written)
    if not found:
        raise ValueError(f"{text!r} is not an expectation; {_SHOWN}")
    sign = {"==": "=", "<>": "!="}.get(found[1], found[1])
    wanted = _wanted(found[2])
    if not isinstance(wanted, (Decimal, str)) and sign not in {"=", "!="}:
        raise ValueError(f"{text!r}: {found[2]} can only be compared with = and !=")
    return Expect(written, sign, (wanted,))


def _wanted(text: str) -> Wanted:
    if text.startswith("'"):
        return text[1:-1].replace("''", "'")
    words: dict[str, bool | None] = {"true": True, "false": False, "null": None}
    return words[text.lower()] if text.lower() in words else Decimal(text)


def _as(wanted: Decimal | str | bool, value: Any) -> Wanted:
    """The value as the kind that it is compared with; None where it is not of that kind."""
    if isinstance(wanted, bool):
        # SQLite has no booleans, and PostgreSQL's text form is one letter.
        return {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}.get(str(value).lower())
    return str(value) if isinstance(wanted, str) else _number(value)


def _number(value: Any) -> Decimal | None:
    try:
        number = Decimal(int(value) if isinstance(value, bool) else str(value))
    except InvalidOperation:
        return None
    return None if number.is_nan() else number
