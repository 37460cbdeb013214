"""How far a proof goes. Each level includes those before it."""

from __future__ import annotations

from keepwell.core.errors import UsageError
from keepwell.policy.values import Level, nearest

LEVELS: tuple[Level, ...] = ("objects", "restore", "round-trip", "checks")


def level_of(text: str) -> Level:
    """Raises UsageError where there is no such level."""
    for level in LEVELS:
        if text == level:
            return level
    raise UsageError(
        f"there is no level {text!r} of proof",
        hint=f"{nearest(text, LEVELS)} The levels are: {', '.join(LEVELS)}.".strip(),
    )


def reaches(level: Level, wanted: Level) -> bool:
    """Whether a proof of `level` includes `wanted`."""
    return LEVELS.index(level) >= LEVELS.index(wanted)
