"""Positions and names in PostgreSQL's write-ahead log: pure arithmetic.

Source: PostgreSQL's `access/xlog_internal.h` (XLogFileName and its kin) and `timeline.c` (history files).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_SEGMENT = 16 << 20
_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_SEGMENT = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")
_HISTORY_LINE = re.compile(r"\s*(\d+)\s+([0-9A-Fa-f]+/[0-9A-Fa-f]+)\b(.*)")


def parse_lsn(text: str) -> int:
    """`0/16B3748` as bytes from the beginning of the log. Raises ValueError."""
    found = _LSN.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is not a position in the write-ahead log (such as 0/16B3748)")
    return int(found[1], 16) << 32 | int(found[2], 16)


def show_lsn(position: int) -> str:
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def segment_name(timeline: int, position: int, size: int = DEFAULT_SEGMENT) -> str:
    """The file that holds the byte at `position`."""
    number, per_id = position // size, (1 << 32) // size
    return f"{timeline:08X}{number // per_id:08X}{number % per_id:08X}"


def parse_segment(name: str, size: int = DEFAULT_SEGMENT) -> tuple[int, int]:
    """Timeline and first position. Raises ValueError."""
    found = _SEGMENT.fullmatch(name)
    per_id = (1 << 32) // size
    if not found or int(found[3], 16) >= per_id:
        raise ValueError(f"{name!r} is not the name of a segment of the write-ahead log")
    return int(found[1], 16), (int(found[2], 16) * per_id + int(found[3], 16)) * size


def is_segment(name: str) -> bool:
    return _SEGMENT.fullmatch(name) is not None


def history_name(timeline: int) -> str:
    return f"{timeline:08X}.history"


@dataclass(frozen=True)
class Fork:
    """A timeline that the log left at a position, for the next line's timeline (or that of the file)."""

    timeline: int
    end: int
    reason: str = ""


def parse_history(text: str) -> list[Fork]:
    """A history file: the ancestors, oldest first. Raises ValueError."""
    forks: list[Fork] = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _HISTORY_LINE.match(line)
        if not found:
            raise ValueError(f"{line!r} is not a line of a timeline history")
        fork = Fork(int(found[1]), parse_lsn(found[2]), found[3].strip())
        if forks and (fork.timeline <= forks[-1].timeline or fork.end < forks[-1].end):
            raise ValueError("the timelines of a history must grow")
        forks.append(fork)
    return forks


def valid_segment_size(size: int) -> bool:
    """A power of two from 1 MiB to 1 GiB."""
    return 1 << 20 <= size <= 1 << 30 and size & (size - 1) == 0
