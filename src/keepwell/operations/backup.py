"""Taking a backup of an environment: its sources one after the other, committed together."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keepwell.core import zstd
from keepwell.core.clock import iso
from keepwell.core.errors import (
    Busy,
    Damaged,
    Interrupted,
    KeepwellError,
    SourceError,
    StoreError,
    UnsupportedFormat,
    UsageError,
    VaultKeyError,
)
from keepwell.core.streams import Context, Facts, Json, Sink
from keepwell.operations.opening import open_vault
from keepwell.operations.portable import PortableCopies
from keepwell.operations.specs import kind_name, spec_of
from keepwell.operations.turn import turn
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.models import DATABASES, Source, Tier
from keepwell.policy.tiers import choose_tier
from keepwell.policy.values import nearest
from keepwell.sources.registry import kind_of
from keepwell.vault.cache import cache_folder
from keepwell.vault.catalog import Backup
from keepwell.vault.session import Permit, Session
from keepwell.vault.vault import Vault

# What is the vault's fault and not the source's: then nothing can be committed.
_ABORTS = (StoreError, VaultKeyError, Busy, Damaged, UnsupportedFormat, Interrupted)


@dataclass(frozen=True)
class BackupRequest:
    environment: str
    tier: str | None = None
    """None: the highest that is due."""
    sources: tuple[str, ...] = ()
    """Only these; then the backup is incomplete, since it is not the whole environment. Empty: all."""
    run: str | None = None
    """The occurrence of a schedule that this backup is (`backup/production/20261122T020000Z`): of one there is one backup."""
    permit: Permit = field(default=contextlib.nullcontext, repr=False, compare=False)
    """Entered right before the commit: where it raises, nothing is committed."""


@dataclass(frozen=True)
class SourceOutcome:
    """What became of one source."""

    status: str
    """`complete`, `failed`, or `skipped` where it was not asked for."""
    facts: Facts = field(default_factory=dict, repr=False)
    error: str = ""
    hint: str = ""

    def json(self) -> dict[str, Json]:
        found: dict[str, Json] = {"status": self.status, "bytes": self.facts.get("bytes", 0)}
        if self.status == "failed":
            found |= {"error": self.error, "hint": self.hint}
        if "tables" in self.facts:
            found["tables"] = {name: {"rows": table["rows"]} for name, table in self.facts["tables"].items()}
        found |= {key: self.facts[key] for key in ("files", "folders", "refs", "objects") if key in self.facts}
        if self.facts.get("warnings"):
            found["warnings"] = list(self.facts["warnings"])
        return found


@dataclass(frozen=True)
class BackupResult:
    backup: str
    environment: str
    tier: str
    time: str
    status: str
    """`complete`, or `incomplete` where a source failed or was not asked for."""
    sources: Mapping[str, SourceOutcome]
    read: int
    new: int
    stored: int
    seconds: float
    portable: tuple[str, ...] = ()
    """Names of the portable copies beside the backup."""
    warnings: tuple[str, ...] = ()
    repeated: bool = False
    """Whether an earlier attempt at the same run had committed it already: then that one is told of."""

    @property
    def clean(self) -> bool:
        """Whether all that was asked for was done: no source failed, no portable copy is missing."""
        return not self.warnings and all(s.status != "failed" for s in self.sources.values())

    def json(self) -> dict[str, Json]:
        return {
            "backup": self.backup,
            "status": self.status,
            "tier": self.tier,
            "environment": self.environment,
            "time": self.time,
            "sources": {name: source.json() for name, source in self.sources.items()},
            "bytes": {"read": self.read, "new": self.new, "stored": self.stored},
            "portable": list(self.portable),
            "warnings": list(self.warnings),
            "seconds": round(self.seconds, 3),
        }


def backup(loaded: LoadedPolicy, request: BackupRequest, context: Context) -> BackupResult:
    """Databases first, then files, into one backup.

    A source that fails does not lose the others. Where all fail, nothing is committed and the error of the first is
    raised. Of a `run` that has its backup already none is taken: that is looked for at the beginning and again right
    before the commit. Raises UsageError, Busy (a backup of this environment runs here), the StoreError and VaultKeyError
    families, Damaged, Interrupted, and what the permit raises; after any of them nothing was committed.
    """
    environment = loaded.environment(request.environment)
    wanted = _wanted(environment.sources, request)
    asked: str | None = request.tier
    if asked is None and len(wanted) < len(environment.sources):
        asked = "manual"  # a part of the environment must not use up its weekly or monthly backup
    started = context.clock.monotonic()
    vault = open_vault(loaded)
    with turn(cache_folder(vault.config.vault), request.environment):
        earlier = vault.scan(request.environment, with_proofs=False).backups
        if there := _of_run(earlier, request.run):
            return _told_again(there)
        now = _free_second(earlier, context)
        whole = [(b.time, b.tier) for b in earlier if b.status == "complete"]
        tier = choose_tier(environment, now, whole, asked)
        session = vault.begin(
            environment=request.environment,
            tier=tier,
            now=now,
            level=loaded.policy.vault.compression or zstd.OWN,
            jobs=context.jobs,
            pack_size=loaded.policy.vault.pack_size,
        )
        with session, PortableCopies(context) as copies:
            outcomes = _capture_all(loaded, environment.sources, wanted, vault, session, tier, copies, context)
            captured = {name: outcome.facts for name, outcome in outcomes.items() if outcome.status == "complete"}
            copies.attach(session, captured)
            _stop_if_cancelled(context)
            try:
                made = session.commit(
                    database=_database(captured),
                    host=platform.node(),
                    seconds=context.clock.monotonic() - started,
                    run=request.run,
                    permit=lambda: _once(vault, request),
                )
            except _AlreadyThereError as found:
                return _told_again(found.backup)
    sizes = made.document["bytes"]
    return BackupResult(
        str(made.id),
        request.environment,
        made.tier,
        iso(made.time),
        made.status,
        outcomes,
        int(sizes["read"]),
        int(sizes["new"]),
        int(sizes["stored"]),
        context.clock.monotonic() - started,
        tuple(copies.made),
        tuple(copies.problems),
    )


class _AlreadyThereError(Exception):
    def __init__(self, backup: Backup) -> None:
        super().__init__()
        self.backup = backup


@contextlib.contextmanager
def _once(vault: Vault, request: BackupRequest) -> Iterator[None]:
    with request.permit():
        if request.run is not None:
            there = _of_run(vault.scan(request.environment, with_proofs=False).backups, request.run)
            if there:
                raise _AlreadyThereError(there)
        yield


def _of_run(backups: Sequence[Backup], run: str | None) -> Backup | None:
    return next((b for b in backups if run is not None and b.document.get("run") == run), None)


def _told_again(backup: Backup) -> BackupResult:
    document = backup.document
    sizes = document["bytes"]
    return BackupResult(
        str(backup.id),
        backup.id.environment,
        backup.tier,
        iso(backup.time),
        backup.status,
        {
            name: SourceOutcome(
                str(source["status"]),
                {"bytes": source["bytes"]},
                "it failed when the backup was taken" if source["status"] == "failed" else "",
            )
            for name, source in document["sources"].items()
        },
        int(sizes["read"]),
        int(sizes["new"]),
        int(sizes["stored"]),
        float(document["seconds"]),
        tuple(document.get("portable", ())),
        repeated=True,
    )


def _wanted(sources: Mapping[str, Source], request: BackupRequest) -> list[str]:
    """Databases first: their snapshot is then as old as it can be when the files that they name are read."""
    for name in request.sources:
        if name not in sources:
            raise UsageError(
                f"there is no source {name!r} in environment {request.environment}",
                hint=f"{nearest(name, sources)} The policy has: {', '.join(sources)}.".strip(),
            )
    chosen = [name for name in sources if not request.sources or name in request.sources]
    return sorted(chosen, key=lambda name: sources[name].type not in DATABASES)


def _free_second(earlier: Sequence[Backup], context: Context) -> dt.datetime:
    """Now, or a second later: two backups of one second would have no order, and `@latest` could mean either."""
    now = context.clock.now().replace(microsecond=0)
    if any(backup.time == now for backup in earlier):
        context.clock.sleep(1)
        now = context.clock.now().replace(microsecond=0)
    return now


def _capture_all(
    loaded: LoadedPolicy,
    sources: Mapping[str, Source],
    wanted: list[str],
    vault: Vault,
    session: Session,
    tier: Tier,
    copies: PortableCopies,
    context: Context,
) -> dict[str, SourceOutcome]:
    outcomes: dict[str, SourceOutcome] = {}
    errors: list[KeepwellError] = []
    for name in wanted:
        _stop_if_cancelled(context)
        context.progress.note(f"Backing up {name}")
        own = dataclasses.replace(context, cache=_cache(vault, session.id.environment, name, context))
        sink = session.sink(name)
        try:
            facts = _capture(loaded, name, sources[name], copies.sink(name, sources[name], tier, sink), own)
        except _ABORTS:
            raise
        except Exception as error:
            told = _told(name, error)
            session.failed(name, told.message)
            errors.append(told)
            outcomes[name] = SourceOutcome("failed", {}, told.message, told.hint)
            context.progress.warn(f"{name} failed: {told.message}" + (f" ({told.hint})" if told.hint else ""))
            continue
        session.done(name, facts)
        outcomes[name] = SourceOutcome("complete", facts)
    if len(errors) == len(wanted):
        raise errors[0]
    for name in sources:
        if name not in outcomes:
            session.skipped(name)
            outcomes[name] = SourceOutcome("skipped")
    return {name: outcomes[name] for name in sources}


def _capture(loaded: LoadedPolicy, name: str, source: Source, sink: Sink, context: Context) -> Facts:
    facts = kind_of(kind_name(source)).capture(spec_of(loaded, name, source), sink, context)
    if getattr(source, "canary", False):
        _write_canary(loaded, name, source, facts, context)
    json.dumps(facts)  # what cannot be written into the manifest fails here, as this source's fault
    return facts


def _write_canary(loaded: LoadedPolicy, name: str, source: Source, facts: Facts, context: Context) -> None:
    """Behind the end of the backup. Without it the backup is no worse, so its failure is a warning."""
    from keepwell.sources.physical import canary

    try:
        facts["canary"] = canary.write(
            spec_of(loaded, name, source).url, getattr(source, "database", None) or "postgres"
        )
    except SourceError as error:
        facts["warnings"] = [*facts["warnings"], f"{error.message}. {error.hint}"]
        context.progress.warn(f"{name}: {error.message}. {error.hint}")


def _told(name: str, error: Exception) -> KeepwellError:
    """The error as a user may see it; texts of unknown errors could hold anything, also secrets."""
    if isinstance(error, KeepwellError):
        return error
    if isinstance(error, OSError):
        what = f"{error.strerror or type(error).__name__}" + (f": {error.filename}" if error.filename else "")
        told = SourceError(
            f"source {name}: {what}",
            hint="Look at the free space (also where temporary files are kept: TMPDIR) and at the rights.",
        )
    else:
        told = SourceError(
            f"source {name}: unexpected {type(error).__name__}",
            hint="This is a fault in keepwell: please report it. KEEPWELL_DEBUG=1 shows where it happened.",
        )
    told.__cause__ = error
    return told


def _cache(vault: Vault, environment: str, source: str, context: Context) -> Path | None:
    return None if context.cache is None else context.cache / vault.id / "sources" / environment / source


def _database(captured: Mapping[str, Facts]) -> str:
    """For metadata.json: the names of the databases, else of the sources."""
    names = [str(facts["database"]) for facts in captured.values() if facts.get("database")]
    return ", ".join(names or captured)


def _stop_if_cancelled(context: Context) -> None:
    if context.cancelled():
        raise Interrupted(
            "the backup was interrupted", hint="Nothing was committed, and no earlier backup was touched."
        )
