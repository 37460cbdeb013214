"""Counts and spans as people say them."""

from __future__ import annotations

import datetime as dt

from keepwell.core.units import show_duration


def many(count: int, noun: str, plural: str = "") -> str:
    """`1 backup`, `1,204 backups`; `plural` where an s does not make it."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {plural or noun + 's'}"


def span(length: dt.timedelta | float) -> str:
    """`4 h` where `show_duration` says `4 h 0 min`; nothing is shorter than nothing."""
    seconds = length.total_seconds() if isinstance(length, dt.timedelta) else length
    return show_duration(max(0.0, seconds)).removesuffix(" 0 min").removesuffix(" 0 s")
