"""What every source package offers: the same names, as plain functions in its `__init__`.

    Spec                                          what to protect (a frozen dataclass of the package's own)
    Target                                        where to restore to (likewise)
    capture(spec, sink, context) -> Facts         read the source into streams; raises SourceError
    restore(facts, streams, target, request, context) -> RestoreReport
    sandbox(facts, context) -> ContextManager[Target]     an empty throwaway place of the right version
    respec(target, facts, spec) -> Spec           to capture what was restored again, the same way
    examine(target, facts, context) -> list[Finding]      the place's own integrity checks
    count_rows(target, facts) -> dict[str, int]   rows per table there (files: none)
    query(target, sql) -> Any                     first column of the first row: for the policy's checks
    column(target, sql) -> Iterator[Any]          databases: first column of every row
    compare(then, now) -> list[Finding]           facts at backup time against facts of the restored place
    export(facts, streams, folder, context) -> dict       a portable copy that needs no keepwell (see issue: metadata.json)

Facts have, for every source: `type` (postgres, physical, sqlite, files, bucket, git), `bytes` (read from the source), `streams`
(names in order), `warnings` (texts). Databases add `database` (name), `version` (of the server or library),
`tables: {"public.leads": {"rows": int, "digest": hex, ...}}`. Files add `files`, `folders`, `digest`; buckets `files` (objects), `digest`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from keepwell.core.streams import Facts, Json


@dataclass(frozen=True)
class Recovery:
    """How far a physical restore replays the log. At most one of `time`, `lsn`, `name`, `immediate`; none: to its end."""

    time: dt.datetime | None = None
    """Up to the last transaction committed at or before this moment (with its time zone)."""
    lsn: int | None = None
    name: str | None = None
    """A restore point made with `pg_create_restore_point`."""
    immediate: bool = False
    """Only to where the backup is consistent."""
    timeline: str = "latest"
    """`latest`, `current` (that of the backup) or a number."""


@dataclass(frozen=True)
class RestoreRequest:
    """What of the source to restore; empty selections mean everything."""

    tables: tuple[str, ...] = ()
    """Names as in the facts: `public.leads`."""
    paths: tuple[str, ...] = ()
    """Files or folders, relative to the source's root."""
    sql: Path | None = None
    """Databases: write SQL text to this new file instead of into a database."""
    recovery: Recovery = Recovery()
    """Physical: how far to replay."""
    restore_command: str = ""
    """Physical: what PostgreSQL calls for each segment of the log; empty: the log in the backup is all there is."""
    tablespaces: tuple[tuple[str, str], ...] = ()
    """Physical: (old place, new place) of tablespaces."""
    delta: bool = False
    """Physical: into a directory that has an older state, rewriting only the pages that differ."""
    start: bool = False
    """Physical: start the server there and wait until the recovery has ended."""
    log: Callable[[str], bytes | None] | None = None
    """Physical, with `start`: the log's files by name, so that the server needs no keys; None: `restore_command` is called."""


@dataclass
class RestoreReport:
    """What a restore did."""

    bytes: int = 0
    tables: dict[str, int] = field(default_factory=dict)
    """Rows restored per table."""
    files: int = 0
    warnings: list[str] = field(default_factory=list)
    """Roles that do not exist here, attributes that could not be set, ...: never data left out."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase."""
    written: int | None = None
    """Physical, with `delta`: how many bytes differed and were rewritten."""
    reached: dict[str, Json] = field(default_factory=dict)
    """Physical, where the server was started: `{"lsn", "timeline", "time"}` at which the recovery ended."""


@dataclass
class Exported:
    """A portable copy, made by `export`."""

    path: Path
    """The file (`database.sql.gz`, `database.db.gz`, `files.tar.gz`)."""
    size: int
    sha256: str
    facts: Facts = field(default_factory=dict)
