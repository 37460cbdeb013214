"""What the rules look at, read from the policy, the vault and the book."""

from __future__ import annotations

import datetime as dt
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keepwell.core.clock import UTC, from_iso, iso
from keepwell.core.errors import ObjectMissing, StoreError
from keepwell.core.streams import Context
from keepwell.operations.heads import Heads
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.models import Environment
from keepwell.stores.probe import store_now
from keepwell.vault import audit
from keepwell.vault.audit import Head
from keepwell.vault.auditverify import gaps, words
from keepwell.vault.catalog import Backup, DamagedBackup, Proof
from keepwell.vault.vault import Vault
from keepwell.watch.book import Pages
from keepwell.watch.seen import EnvironmentSeen, KeySeen, Outcome, Point, RunSeen, StoreSeen

SLOW_EVERY = dt.timedelta(hours=1)
"""What costs more than a listing is looked at so often; and at once when the clock jumped."""
_FEWEST_RUNS = 3
_USUAL_OF = 10


@dataclass(frozen=True)
class Slow:
    """What is read seldom."""

    at: dt.datetime
    used: int
    clock_apart: float
    slots: tuple[tuple[str, str, dt.datetime], ...]
    """Readers: id, label, when they were made."""
    audit: str = ""
    """What is missing of the audit log, in words."""

    def json(self) -> dict[str, Any]:
        return {
            "at": iso(self.at),
            "used": self.used,
            "clock_apart": self.clock_apart,
            "slots": [[ident, label, iso(made)] for ident, label, made in self.slots],
            "audit": self.audit,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Slow:
        slots = tuple((ident, label, from_iso(made)) for ident, label, made in document["slots"])
        audit = document.get("audit", "")
        return cls(from_iso(document["at"]), document["used"], document["clock_apart"], slots, audit)


def slow_of(vault: Vault, context: Context, heads: Heads) -> Slow:
    """Lists the whole store, asks for its time, reads the key slots. Raises StoreError, Damaged."""
    known = heads.known(vault.id)  # before the listing: what others append meanwhile is not missing
    used, numbers, first = 0, [], 1
    for info in vault.store.list(""):
        used += info.size
        if (number := audit.number_of(info.name)) is not None:
            numbers.append(number)
        elif info.name.startswith(audit.CHECKPOINTS) and info.name[-10:].isdecimal():
            first = max(first, int(info.name[-10:]))
    there = store_now(vault.store)
    here = context.clock.now()
    slots = tuple((s.id, s.label or s.kind, from_iso(s.created)) for s in vault.key_slots() if s.role == "reader")
    return Slow(here, used, (here - there).total_seconds(), slots, _audit(vault, heads, known, numbers, first, context))


def _audit(vault: Vault, heads: Heads, known: Head, numbers: list[int], first: int, context: Context) -> str:
    """What is missing, by the names alone; and how far the log goes is remembered."""
    last = max(numbers, default=0)
    missing = [f"{words(*gap)} missing" for gap in gaps(first, sorted(n for n in numbers if n >= first))]
    if known.number > last:
        missing.append(f"{words(last + 1, known.number)} missing at its end")
    elif last > known.number:
        try:
            heads.remember(vault.id, Head(last, audit.sha256_of(vault.store.get(audit.name_of(last)))))
        except (OSError, ObjectMissing) as error:
            context.progress.warn(f"this machine does not remember where the audit log ends: {error}")
    return "; ".join(missing)


def environments_of(loaded: LoadedPolicy, vault: Vault, pages: Pages) -> tuple[EnvironmentSeen, ...]:
    """Every environment of the policy, from one listing of its folder. Raises StoreError."""
    vault.config.require("read")
    found = []
    for name, policy in loaded.policy.environments.items():
        catalogue = vault.scan(name)
        backups, damaged = catalogue.backups, catalogue.damaged
        found.append(_with_backups(bare_environment(loaded, name, policy, pages), vault, backups, damaged))
    return tuple(found)


def bare_environment(loaded: LoadedPolicy, name: str, policy: Environment, pages: Pages) -> EnvironmentSeen:
    """What the policy and the book say of it; of its backups what was last known."""
    general, own = loaded.policy.watch, policy.watch
    drills = own.drill_within or (general.drill_within if name == "production" and policy.schedule else None)
    drilled = pages.note(f"deed:drill:{name}")
    goals = policy.objectives
    safe = pages.note(f"safe:{name}") or {}
    proven = safe.get("proven")
    return EnvironmentSeen(
        name,
        policy.schedule,
        policy.timezone,
        (own.grace or general.grace) + policy.jitter,  # a run may begin so much after its due time
        own.proof_within or (general.proof_within if policy.schedule else None),
        drills,
        own.longest,
        goals.rpo_max if "rpo_max" in goals.model_fields_set else None,
        goals.rto,
        goals.rto_max,
        backups=tuple(Point(ident, from_iso(time), complete=True) for ident, time in safe.get("newest", [])),
        proven=Point(proven[0], from_iso(proven[1]), complete=True) if proven else None,
        proof_time=from_iso(safe["proof"]) if safe.get("proof") else None,
        drilled=from_iso(drilled["at"]) if drilled else None,
        off=frozenset(own.off),
    )


def safe_note(env: EnvironmentSeen) -> dict[str, Any]:
    """What is worth knowing of it when the vault cannot be read."""
    return {
        "newest": [[env.newest.id, iso(env.newest.time)]] if env.newest else [],
        "proven": [env.proven.id, iso(env.proven.time)] if env.proven else None,
        "proof": iso(env.proof_time) if env.proof_time else None,
    }


def _with_backups(
    bare: EnvironmentSeen, vault: Vault, backups: Sequence[Backup], damaged: Sequence[DamagedBackup]
) -> EnvironmentSeen:
    proven = next((b for b in reversed(backups) if b.proven), None)
    proof = next((p for p in reversed(vault.proofs(proven)) if p.counts), None) if proven else None
    tried = next((b for b in reversed(backups) if b.proofs), None)
    last: Proof | None = None
    if tried is not None and tried is not proven:
        last = next(reversed(vault.proofs(tried)), None)
    seconds = proof.details.get("seconds", {}) if proof else {}
    return replace(
        bare,
        backups=tuple(_point(b) for b in backups),
        proven=_point(proven) if proven else None,
        proof_time=proof.time if proof else None,
        recovery=float(seconds["total"]) if "total" in seconds else None,
        failed_proof=(last.backup, last.summary) if last is not None and not last.passed else None,
        damaged=tuple((str(bad.id), bad.message) for bad in damaged),
    )


def _point(backup: Backup) -> Point:
    sources: Mapping[str, Mapping[str, Any]] = backup.document.get("sources", {})
    return Point(
        str(backup.id),
        backup.time,
        backup.status == "complete",
        float(backup.document.get("seconds", 0.0)),
        {n: int(s.get("bytes", 0)) for n, s in sources.items() if s.get("status") == "complete"},
        tuple(n for n, s in sources.items() if s.get("status") == "failed"),
        backup.size,
        backup.tier,
    )


def runs_of(pages: Pages, host: str) -> tuple[RunSeen, ...]:
    """The newest run of each verb and environment, with how long such runs usually take."""
    newest: dict[tuple[str, str | None], tuple[dt.datetime, dict[str, Any]]] = {}
    took: dict[tuple[str, str | None], list[float]] = {}
    for _, verb, environment, started, document in pages.runs():
        at = verb, environment
        newest[at] = started, document
        if at == ("copy", None) and document.get("outcome") in {"done", "warnings"}:  # by hand, of all of them
            newest = {known: run for known, run in newest.items() if known[0] != "copy" or known == at}
        if document.get("outcome") in {"done", "warnings"}:
            took.setdefault(at, []).append(float(document.get("seconds", 0)))
    found = []
    for (verb, environment), (started, document) in newest.items():
        known = took.get((verb, environment), [])[-_USUAL_OF:]
        found.append(
            RunSeen(
                verb,
                environment,
                started,
                from_iso(document["ended"]) if document.get("ended") else None,
                _outcome(document, host),
                document.get("message", ""),
                document.get("hint", ""),
                document.get("kind", ""),
                int(document.get("exit_code", 0)),
                statistics.median(known) if len(known) >= _FEWEST_RUNS else None,
            )
        )
    return tuple(found)


def _outcome(document: Mapping[str, Any], host: str) -> Outcome:
    outcome: Outcome = document.get("outcome", "running")
    if outcome == "running" and document.get("host") == host and not _lives(document):
        return "vanished"
    return outcome


def _lives(document: Mapping[str, Any]) -> bool:
    """Whether the process of a run on this machine is still there, and not another one under its number."""
    import psutil  # type: ignore[import-untyped]  # it has no types

    try:
        return bool(abs(psutil.Process(int(document["pid"])).create_time() - float(document["born"])) < 2)
    except (psutil.Error, KeyError, ValueError):
        return False


def store_of(loaded: LoadedPolicy, vault: Vault, slow: Slow) -> StoreSeen:
    general = loaded.policy.watch
    used, capacity = slow.used, general.capacity
    folder = loaded.policy.vault.folder()
    if capacity is None and folder is not None:
        try:
            usage = shutil.disk_usage(folder)
        except OSError as error:
            raise StoreError(f"the store's folder {folder} cannot be looked at: {error.strerror}") from None
        used, capacity = usage.total - usage.free, usage.total
    return StoreSeen(vault.store.url, None, used, capacity, general.full, slow.clock_apart, slow.audit)


def keys_of(slow: Slow, pages: Pages) -> tuple[KeySeen, ...]:
    found = []
    for ident, label, made in slow.slots:
        deed = pages.note(f"deed:key:{ident}")
        tried = max(made, from_iso(deed["at"])) if deed else made
        found.append(KeySeen(ident, label, tried))
    return tuple(found)


def reviewed_of(loaded: LoadedPolicy, pages: Pages) -> dt.datetime | None:
    day = loaded.policy.watch.reviewed
    written = dt.datetime(day.year, day.month, day.day, tzinfo=UTC) if day else None
    deed = pages.note("deed:review:strategy")
    said = from_iso(deed["at"]) if deed else None
    return max((moment for moment in (written, said) if moment), default=None)
