"""What to protect, and where to restore to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keepwell.core.secrets import Secret


@dataclass(frozen=True)
class Spec:
    """One PostgreSQL database."""

    url: Secret
    """A libpq URI (`postgresql://user:password@host:5432/leads?sslmode=require`) or conninfo string."""
    programs: Path | None = None
    """A folder with pg_dump and friends to use instead of looking for them."""
    lock_seconds: int = 300
    """How long to wait for somebody who alters or drops a table when the backup begins."""
    lc_monetary: str = ""
    """How amounts of type money are written; empty: as the database does."""
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Orders of columns by table: where a table has the same ones in another order, its digest is of this order."""
    big_table: int = 32_000_000
    """From this size on, a table may be dumped by a process that does not carry everything else."""


@dataclass(frozen=True)
class Target:
    """A database to restore into: a new one (`create`), or one that is there and empty."""

    url: Secret
    create: bool = False
    """Make the database that the address names; then it must not exist."""
    programs: Path | None = None
    analyze: bool = True
    """Gather the planner's statistics at the end, so that the first queries are not slow."""
