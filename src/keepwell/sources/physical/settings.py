"""Settings as `SHOW` prints them."""

from __future__ import annotations

import re

_VALUE = re.compile(r"(-?[0-9.]+) ?([A-Za-z]*)")
_SIZES = {"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def shown_size(text: str) -> int:
    """Bytes of `16MB`, `1GB`. Raises ValueError."""
    number, unit = _parts(text, _SIZES, "B")
    return round(number * unit)


def shown_seconds(text: str) -> float:
    """Seconds of `1min`, `500ms`, `0`. Raises ValueError."""
    number, unit = _parts(text, _TIMES, "ms")
    return number * unit


def _parts(text: str, units: dict[str, float] | dict[str, int], plain: str) -> tuple[float, float]:
    found = _VALUE.fullmatch(text)
    if not found or (found[2] or plain) not in units:
        raise ValueError(f"{text!r} is not a value that PostgreSQL shows")
    return float(found[1]), units[found[2] or plain]
