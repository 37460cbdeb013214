"""What to protect, and where to restore to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Spec:
    """One SQLite database file."""

    path: Path


@dataclass(frozen=True)
class Target:
    """A database file that does not exist yet."""

    path: Path
