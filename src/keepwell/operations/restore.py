"""Bringing data back: everything, one source, some tables, some files. Nothing is ever overwritten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from keepwell.core.errors import Interrupted, KeepwellError, UsageError
from keepwell.core.newfile import refuse_existing
from keepwell.core.streams import Context, Json
from keepwell.operations import dangling, physical_restore, places
from keepwell.operations.buckets import BUCKETS, bucket_place
from keepwell.operations.choosing import complete_sources, missing_sources, only_source, require_source
from keepwell.operations.moments import Plan
from keepwell.operations.opening import open_for_reading
from keepwell.operations.physical_restore import Wish
from keepwell.operations.places import Place
from keepwell.policy.load import LoadedPolicy
from keepwell.proof.checks import CheckOutcome
from keepwell.sources.base import RestoreReport
from keepwell.sources.base import RestoreRequest as SourceRequest
from keepwell.sources.physical import recovery
from keepwell.sources.registry import DATABASES, kind_of
from keepwell.vault.vault import BackupReader, Vault

_DATABASES = ("env:", "file:", "postgres://", "postgresql://")
"""How a `to` begins that names a database."""


@dataclass(frozen=True)
class RestoreRequest:
    backup: str
    """As `Vault.find` takes it: an id, `production@latest`, …"""
    source: str | None = None
    """None: the only one that fits, else all of them."""
    to: str | None = None
    """A new file or folder; for a bucket also the address of an empty one; for PostgreSQL `env:NAME`, `file:PATH` or a URL
    without a password, of an empty database. With several sources a folder, where each goes below its own name
    (PostgreSQL as `database.sql`)."""
    to_new_database: str | None = None
    """PostgreSQL: the name of a new database on the source's own server."""
    tables: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    sql: Path | None = None
    """Databases: SQL text into this new file."""
    wish: Wish = field(default_factory=Wish)
    """Physical: which moment, and how."""


@dataclass(frozen=True)
class Restored:
    """What became of one source."""

    to: str
    report: RestoreReport
    error: str = ""
    hint: str = ""
    plan: Plan | None = None
    """Physical: what was used."""

    def json(self) -> dict[str, Json]:
        found: dict[str, Json] = {"status": "failed" if self.error else "complete", "to": self.to}
        if self.error:
            return found | {"bytes": 0, "error": self.error, "hint": self.hint}
        report = self.report
        found |= {"bytes": report.bytes, "tables": dict(report.tables), "files": report.files}
        if self.plan:
            found |= {
                "recovery": self.plan.json(),
                "reached": dict(report.reached) or None,
                "rewritten": report.written,
            }
        found["warnings"] = list(report.warnings)
        found["seconds"] = {phase: round(seconds, 3) for phase, seconds in report.seconds.items()}
        return found


@dataclass(frozen=True)
class RestoreResult:
    backup: str
    sources: Mapping[str, Restored]
    seconds: float
    missing: Mapping[str, str] = field(default_factory=dict)
    """Sources that belong to the environment and are not in the backup, with the reason."""
    references: tuple[CheckOutcome, ...] = ()
    """Whether the files are there that restored databases refer to; only where all sources were restored."""

    @property
    def clean(self) -> bool:
        failed = any(source.error for source in self.sources.values())
        return not self.missing and not failed and all(outcome.passed for outcome in self.references)

    def json(self) -> dict[str, Json]:
        return {
            "backup": self.backup,
            "status": "complete" if self.clean else "incomplete",
            "sources": {name: source.json() for name, source in self.sources.items()},
            "missing": dict(self.missing),
            "references": [outcome.json() for outcome in self.references],
            "seconds": round(self.seconds, 3),
        }


def restore(loaded: LoadedPolicy, request: RestoreRequest, context: Context) -> RestoreResult:
    """Restores one source, or all sources of the backup.

    Of several, one that fails does not hold up the others; where all fail, the error of the first is raised. Raises
    UsageError, BackupNotFound, TargetNotEmpty, SourceError, Damaged, KeyCannotRead, StoreError, Interrupted.
    """
    started = context.clock.monotonic()
    _check(request)
    vault = open_for_reading(loaded, context.progress)
    reader = vault.read(vault.find(request.backup))
    one = _the_one(reader, request)
    everything = one is None
    chosen = complete_sources(reader) if one is None else [one]
    targets = _places(loaded, reader, request, chosen, everything=everything)
    done: dict[str, Restored] = {}
    errors: list[KeepwellError] = []
    for name, place in targets.items():
        context.progress.note(f"Restoring {name} to {place.shown}")
        try:
            done[name] = _restore(loaded, vault, reader, name, place, request, context)
        except Interrupted:
            raise
        except KeepwellError as error:
            if not everything:
                raise
            errors.append(error)
            done[name] = Restored(place.shown, RestoreReport(), error.message, error.hint)
            context.progress.warn(f"{name} was not restored: {error.message}")
    if len(errors) == len(targets):
        raise errors[0]
    missing = missing_sources(reader) if everything else {}
    for name, reason in missing.items():
        context.progress.warn(f"{name} is not in {reader.backup.id}: {reason}")
    looked = dangling.look(loaded, reader, targets, done, context) if everything else ()
    return RestoreResult(str(reader.backup.id), done, context.clock.monotonic() - started, missing, looked)


def _restore(
    loaded: LoadedPolicy,
    vault: Vault,
    reader: BackupReader,
    name: str,
    place: Place,
    request: RestoreRequest,
    context: Context,
) -> Restored:
    wanted = SourceRequest(request.tables, request.paths, place.sql)
    plan = None
    kind = reader.facts(name)["type"]
    physical_restore.refuse_for(kind, name, request.wish)
    if kind == "physical":
        if request.tables or request.paths:
            raise UsageError(
                f"{name} is backed up physically, as a whole cluster, and tables or files cannot be taken out of it",
                hint="Restore it to a new directory with --to and --start, and take the tables from there with pg_dump.",
            )
        prepared = physical_restore.prepare(loaded, vault, reader, request.backup, name, request.wish, context)
        reader, plan, wanted = prepared.reader, prepared.plan, prepared.request
    facts = reader.facts(name)
    streams = reader.streams(name, context.jobs)
    return Restored(place.shown, kind_of(kind).restore(facts, streams, place.target, wanted, context), plan=plan)


def _check(request: RestoreRequest) -> None:
    """What cannot be meant, whatever the backup holds."""
    given = [
        option
        for option, value in (
            ("--to", request.to),
            ("--to-new-database", request.to_new_database),
            ("--sql", request.sql),
        )
        if value
    ]
    if not given:
        raise UsageError(
            "a restore needs a place to go to",
            hint="Name a new file or folder with --to; for PostgreSQL an empty database (--to env:NAME), a new one "
            "(--to-new-database NAME), or a file for SQL text (--sql FILE).",
        )
    if request.sql and len(given) > 1:
        raise UsageError(f"{' and '.join(given)} were given, and a source goes to one place")
    recovery.check(request.wish.recovery)
    if request.tables and request.paths:
        raise UsageError("--table is for databases and --path for files; one restore takes one of them")


def _the_one(reader: BackupReader, request: RestoreRequest) -> str | None:
    """The source that the request means; None: all of them, each below a folder."""
    if request.source is not None:
        return require_source(reader, request.source)
    if request.paths:
        return only_source(reader, ("files", "bucket"), "--path")
    if given := request.wish.options():
        return only_source(reader, ("physical",), given[0])
    if request.tables or request.sql:
        return only_source(reader, DATABASES, "--table" if request.tables else "--sql")
    if not request.to:
        return only_source(reader, ("postgres",), "--to-new-database")
    if request.to.startswith(BUCKETS):
        return only_source(reader, ("bucket",), "--to with a bucket")
    if request.to.startswith(_DATABASES):
        return only_source(reader, ("postgres",), "--to with a database")
    return next(iter(reader.sources)) if len(reader.sources) == 1 else None


def _places(
    loaded: LoadedPolicy, reader: BackupReader, request: RestoreRequest, chosen: list[str], *, everything: bool
) -> dict[str, Place]:
    """Where each goes; all of them looked at before anything is written."""
    environment = reader.backup.id.environment
    named = [name for name in chosen if reader.facts(name)["type"] == "postgres"]
    if request.to_new_database and request.to and (not everything or len(named) != 1):
        raise UsageError(
            "--to and --to-new-database together are for a backup with one PostgreSQL database and other sources",
            hint="Restore each source by itself with --source.",
        )
    if everything:
        folder = Path(str(request.to)).expanduser()
        if request.to_new_database:
            own = places.new_database(loaded, environment, named[0], request.to_new_database)
            return {
                name: own if name in named else places.place_in_folder(reader.facts(name), folder / name)
                for name in chosen
            }
        return {name: places.place_in_folder(reader.facts(name), folder / name) for name in chosen}
    (name,) = chosen
    return {name: _place(loaded, reader, request, name)}


def _place(loaded: LoadedPolicy, reader: BackupReader, request: RestoreRequest, name: str) -> Place:
    facts = reader.facts(name)
    if request.sql:
        if facts["type"] not in DATABASES:
            raise UsageError(f"{name} has no tables, so there is no SQL text of it", hint="Name a folder with --to.")
        file = request.sql.expanduser()
        refuse_existing(file)
        return Place(None, str(file), file)
    if facts["type"] == "postgres":
        if request.to_new_database:
            return places.new_database(loaded, reader.backup.id.environment, name, request.to_new_database)
        return places.database(loaded, str(request.to))
    if facts["type"] == "physical":
        return places.cluster(request.to)
    if str(request.to).startswith(BUCKETS):
        if facts["type"] != "bucket":
            raise UsageError(f"{name} is no bucket, and --to names one", hint="Name a new file or folder with --to.")
        return bucket_place(loaded, reader.backup.id.environment, name, str(request.to))
    if request.to_new_database:
        raise UsageError(f"{name} is no PostgreSQL database", hint="Name a new file or folder with --to.")
    return places.at_path(facts, Path(str(request.to)).expanduser())
