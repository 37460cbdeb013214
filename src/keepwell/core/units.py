"""Sizes and durations, for people: read from the policy, written to the screen."""

from __future__ import annotations

import datetime as dt
import re

_DURATION = re.compile(r"\s*(\d+)\s*(s|m|h|d|w|y)\s*")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)


def duration(text: str) -> dt.timedelta:
    """`30d`, `4h`, `1h30m`, `7y` (365 days each). Raises ValueError with a text that shows the form."""
    at, seconds = 0, 0
    while at < len(text) and (found := _DURATION.match(text, at)):
        seconds += int(found[1]) * _SECONDS[found[2]]
        at = found.end()
    if at == 0 or at != len(text):
        raise ValueError(f'{text!r} is not a duration; write for example "30d", "4h", "1h30m" or "7y"')
    return dt.timedelta(seconds=seconds)


def size(text: str) -> int:
    """Bytes: `500 MB` (decimal), `2GiB` (binary), `1024`. Raises ValueError with a text that shows the form."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError(f'{text!r} is not a size; write for example "500 MB" or "2 GiB"')
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** " kmgt".index(found[2].lower() or " "))


def show_size(count: float) -> str:
    """`1.2 GB`: decimal, three digits at the most."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def show_duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `3 days`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} days"
