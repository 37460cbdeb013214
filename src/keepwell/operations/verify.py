"""The proof of a backup: restored into a sandbox and compared, and the result kept in the vault."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keepwell.core.clock import iso
from keepwell.core.errors import Damaged, StoreError, UnsupportedFormat
from keepwell.core.streams import Context, Finding, Json
from keepwell.operations.choosing import lookup_in, missing_sources, require_source
from keepwell.operations.opening import open_vault
from keepwell.operations.rehearsal import Rehearsal
from keepwell.operations.specs import spec_for_proof
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.models import Source
from keepwell.policy.values import Level
from keepwell.proof.levels import LEVELS, level_of
from keepwell.proof.prove import Questions, SourceProof, prove
from keepwell.proof.record import program, record_of, who
from keepwell.sources.registry import kind_of
from keepwell.vault.catalog import Backup
from keepwell.vault.vault import BackupReader, Vault

AfterRestore = Callable[[str, Any], None]


@dataclass(frozen=True)
class VerifyRequest:
    backup: str
    """As `Vault.find` takes it: an id, `production@latest`, …"""
    level: str | None = None
    """None: as the policy says for the environment."""
    sources: tuple[str, ...] = ()
    """Only these; then the proof does not prove the backup. Empty: all."""


@dataclass(frozen=True)
class VerifyResult:
    backup: str
    environment: str
    level: str
    sources: Mapping[str, SourceProof]
    whole: bool
    """Whether all sources of the backup were looked at."""
    time: str
    seconds: Mapping[str, float]
    """By phase over all sources, and `total`. `restore` is a measured time to recover."""
    proof: str = ""
    """The name of the record in the vault."""

    @property
    def passed(self) -> bool:
        return all(source.passed for source in self.sources.values())

    @property
    def proven(self) -> bool:
        """Whether the backup counts as proven by this."""
        return self.passed and self.whole and self.level != LEVELS[0]

    def json(self) -> dict[str, Json]:
        return {
            "backup": self.backup,
            "environment": self.environment,
            "level": self.level,
            "passed": self.passed,
            "proven": self.proven,
            "time": self.time,
            "sources": {name: source.json() for name, source in self.sources.items()},
            "seconds": {phase: round(seconds, 3) for phase, seconds in self.seconds.items()},
            "who": who(),
            "program": program(),
            "proof": self.proof,
        }


def verify(
    loaded: LoadedPolicy, request: VerifyRequest, context: Context, *, after_restore: AfterRestore | None = None
) -> VerifyResult:
    """A failed proof is a result (`passed` False), and is recorded like one that passed.

    `after_restore` is given each restored source (name and place) before it is compared: tests damage it there. Raises
    UsageError, BackupNotFound, KeyCannotRead, StoreError, Interrupted: then nothing was recorded.
    """
    started = context.clock.monotonic()
    vault = open_vault(loaded)
    backup = vault.find(request.backup)
    result = examine(loaded, vault, backup, request, context, started=started, after_restore=after_restore)
    return dataclasses.replace(result, proof=keep(vault, backup, result, context))


def examine(
    loaded: LoadedPolicy,
    vault: Vault,
    backup: Backup,
    request: VerifyRequest,
    context: Context,
    *,
    started: float,
    after_restore: AfterRestore | None = None,
) -> VerifyResult:
    """The proof itself, of which nothing is kept yet. `started`: the monotonic time from which `total` counts."""
    known = loaded.policy.environments.get(backup.id.environment)
    level = level_of(request.level or (known.verify if known else LEVELS[-1]))
    policy: Mapping[str, Source] = known.sources if known else {}
    try:
        reader = vault.read(backup)
    except Damaged as error:
        names = request.sources or tuple(backup.document["sources"])
        sources = {name: SourceProof(findings=[Finding("manifest", error.message)]) for name in names}
    else:
        sources = _prove_all(loaded, vault, reader, request, level, policy, context, after_restore)
    total = context.clock.monotonic() - started
    return VerifyResult(
        str(backup.id),
        backup.id.environment,
        level,
        sources,
        whole=backup.status == "complete" and set(sources) == set(backup.document["sources"]),
        time=iso(context.clock.now()),
        seconds=_phases(sources) | {"total": total},
    )


def _prove_all(
    loaded: LoadedPolicy,
    vault: Vault,
    reader: BackupReader,
    request: VerifyRequest,
    level: Level,
    policy: Mapping[str, Source],
    context: Context,
    after_restore: AfterRestore | None,
) -> dict[str, SourceProof]:
    missing = missing_sources(reader)
    names = [require_source(reader, name) for name in request.sources] or list(reader.sources)
    sources: dict[str, SourceProof] = {}
    for name in names:
        if name in missing:
            sources[name] = SourceProof(findings=[Finding(name, f"is not in the backup: {missing[name]}")])
            continue
        facts = reader.facts(name)
        try:
            kind = kind_of(facts["type"])
        except UnsupportedFormat as error:
            sources[name] = SourceProof(facts["type"], findings=[Finding(name, error.message)])
            continue
        context.progress.note(f"Proving {name}")
        physical = facts["type"] == "physical"
        rehearsal = Rehearsal.of(vault, reader, name, policy.get(name)) if physical else None
        sources[name] = prove(
            kind,
            facts,
            reader.streams(name, context.jobs),
            spec_for_proof(facts),
            _questions(loaded, policy.get(name), reader, name, level, context),
            level,
            context,
            prepare=rehearsal.prepare if rehearsal else None,
            after_restore=after_restore and functools.partial(after_restore, name),
        )
        if rehearsal:
            rehearsal.tell(sources[name])
    return sources


def _questions(
    loaded: LoadedPolicy, source: Source | None, reader: BackupReader, name: str, level: Level, context: Context
) -> Questions:
    if source is None:
        if level == LEVELS[-1]:
            context.progress.warn(f"the policy has no source {name} any more, so it has no checks")
        return Questions()
    names = {"KEEPWELL_BACKUP": str(reader.backup.id), "KEEPWELL_SOURCE": name}
    return Questions(
        tuple(getattr(source, "critical_tables", ())),
        source.checks,
        loaded.base,
        names,
        tuple(getattr(source, "references", ())),
        lookup_in(reader, context),
    )


def _phases(sources: Mapping[str, SourceProof]) -> dict[str, float]:
    """Seconds by phase over all sources."""
    seconds: dict[str, float] = {}
    for source in sources.values():
        for phase, passed in source.seconds.items():
            seconds[phase] = seconds.get(phase, 0.0) + passed
    return seconds


def keep(
    vault: Vault, backup: Backup, result: VerifyResult, context: Context, more: Mapping[str, Json] | None = None
) -> str:
    """Records the proof, with `more` in its details; the name of the record."""
    if any(f"/proof-{context.clock.now():%Y%m%dT%H%M%SZ}-" in name for name in backup.proofs):
        context.clock.sleep(1)  # two proofs of one second would have no order, and the newest counts
    proof = record_of(
        backup,
        result.sources,
        level=level_of(result.level),
        whole=result.whole,
        time=context.clock.now(),
        details=result.json() | dict(more or {}),
    )
    try:
        return vault.record(backup, proof)
    except StoreError as error:
        outcome = "passed" if proof.passed else f"failed ({proof.summary})"
        raise type(error)(
            f"the proof of {backup.id} {outcome}, but it could not be recorded: {error.message}", hint=error.hint
        ) from error
