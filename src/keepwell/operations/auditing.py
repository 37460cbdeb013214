"""Reading the record: whether the audit log is whole, what was done, and what runs said."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeVar

from keepwell.core.clock import UTC, from_iso, iso
from keepwell.core.errors import Damaged, KeepwellError, ObjectMissing, UsageError
from keepwell.core.streams import Context, Json
from keepwell.core.units import duration
from keepwell.operations.heads import Heads, folder_of
from keepwell.operations.opening import open_copies, open_for_reading, open_vault
from keepwell.policy.load import LoadedPolicy
from keepwell.vault import audit, auditverify, runlogs
from keepwell.vault.audit import Entry, Head
from keepwell.vault.auditverify import Anchor, Verdict
from keepwell.vault.runlogs import RunLog
from keepwell.vault.vault import Vault

_READERS = 8
_SLACK = dt.timedelta(days=1)
"""By which a writer's clock may differ from the store's before an entry is looked for in the wrong place."""
_A = TypeVar("_A")
_B = TypeVar("_B")


@dataclass(frozen=True)
class AuditVerified:
    store: str
    verdict: Verdict

    @property
    def passed(self) -> bool:
        return self.verdict.passed

    def json(self) -> dict[str, Json]:
        verdict = self.verdict
        return {
            "store": self.store,
            "passed": verdict.passed,
            "first": verdict.first,
            "entries": verdict.entries,
            "head": verdict.head.json() if verdict.head.number else None,
            "anchors": verdict.anchors,
            "findings": [{"what": f.what, "problem": f.problem} for f in verdict.findings],
            "notes": verdict.notes,
        }


def verify(loaded: LoadedPolicy, context: Context, head: str | None = None) -> AuditVerified:
    """Reads the whole audit log, and holds it against what this machine, the backups, the copies and `head` say of it.

    `head` is `NUMBER:SHA256`, kept elsewhere. Damage is in the result. Raises UsageError, StoreError and the
    VaultKeyError family.
    """
    given = [] if head is None else [Anchor(_head(head), "--head")]
    vault = open_vault(loaded)
    heads = Heads(folder_of(loaded))
    anchors = given + list(_anchors(loaded, vault, heads, context))
    context.progress.note("Reading the audit log")
    verdict = auditverify.verify(vault, anchors)
    if verdict.passed and verdict.head.number:
        try:
            heads.remember(vault.id, verdict.head)
        except OSError as error:
            context.progress.warn(
                f"this machine cannot remember where the audit log ends: {heads.path}: {error.strerror}"
            )
    return AuditVerified(vault.store.url, verdict)


def _head(text: str) -> Head:
    number, _, sha256 = text.partition(":")
    if not number.isdecimal() or len(sha256) != 64:
        raise UsageError(
            f"--head {text!r} is not NUMBER:SHA256",
            hint="`keepwell audit verify` prints it as the last line; write it down somewhere else.",
        )
    return Head(int(number), sha256.lower())


def _anchors(loaded: LoadedPolicy, vault: Vault, heads: Heads, context: Context) -> Iterator[Anchor]:
    known = heads.known(vault.id)
    if known.number:
        yield Anchor(known, "this machine")
    found = vault.scan(with_proofs=False)
    for backup in [*found.backups, *found.condemned]:
        said = backup.document.get("audit")
        if isinstance(said, dict):
            yield Anchor(Head(int(said["entry"]), str(said["sha256"])), str(backup.id))
    for copy in open_copies(loaded, context.progress):
        try:
            last = audit.head(copy.store, copy.keyring)
        except KeepwellError as error:
            context.progress.warn(f"the copy at {copy.store.url} was not compared: {error.message}")
            continue
        if last.number:
            yield Anchor(last, f"the copy at {copy.store.url}")


@dataclass(frozen=True)
class Action:
    """An action as a person wants to read it: how it began, and how it ended."""

    begun: Entry
    ended: Entry | None
    outcome: str
    """The result; `running` where its process lives on this machine; `unknown` where nobody said how it ended."""

    def json(self) -> dict[str, Json]:
        begun, ended = self.begun.document, self.ended.document if self.ended else {}
        return {
            "number": self.begun.number,
            "time": begun.get("time"),
            "action": begun.get("action"),
            "environment": begun.get("environment"),
            "outcome": self.outcome,
            "ended": ended.get("time"),
            "seconds": ended.get("seconds"),
            "who": begun.get("who"),
            "from": begun.get("from"),
            "by": begun.get("by"),
            "command": begun.get("command"),
            "message": ended.get("message", ""),
            "details": {**(begun.get("details") or {}), **(ended.get("details") or {})},
            "run": begun.get("run"),
            "log": begun.get("log"),
        }


@dataclass(frozen=True)
class Altered:
    """An entry that does not open."""

    number: int
    problem: str

    def json(self) -> dict[str, Json]:
        return {"number": self.number, "damaged": self.problem}


@dataclass(frozen=True)
class Window:
    """Of time, by the clocks of who wrote."""

    since: dt.datetime | None = None
    until: dt.datetime | None = None

    @classmethod
    def of(cls, since: str | None, until: str | None, now: dt.datetime) -> Window:
        """From `2026-11-22`, `2026-11-22T02:00:00Z`, or a time ago: `7d`. Raises UsageError."""
        return cls(_moment("--since", since, now), _moment("--until", until, now))

    def holds(self, time: dt.datetime) -> bool:
        return (self.since is None or time >= self.since) and (self.until is None or time < self.until)


def actions(
    loaded: LoadedPolicy, context: Context, window: Window, *, environment: str | None = None, last: int | None = None
) -> list[Action | Altered]:
    """What was done, oldest first; the `last` ones where that is given. Raises StoreError, the VaultKeyError family."""
    vault = open_for_reading(loaded, context.progress)
    ends: dict[int, Entry] = {}
    found: list[Action | Altered] = []
    for entry in _backwards(vault, window.since):
        if isinstance(entry, Altered):
            found.append(entry)
        elif entry.document.get("event") == "ended":
            ends[int(entry.document.get("begun", 0))] = entry
        elif window.holds(_time(entry)) and environment in {None, entry.document.get("environment")}:
            end = ends.get(entry.number)
            found.append(Action(entry, end, str(end.document["result"]) if end else _unfinished(entry)))
        if last is not None and len(found) >= last:
            break
    return found[::-1]


def entries(loaded: LoadedPolicy, context: Context, window: Window) -> Iterator[Entry | Altered]:
    """Every entry of that time, oldest first. Raises StoreError, the VaultKeyError family."""
    vault = open_for_reading(loaded, context.progress)
    for entry in reversed(list(_backwards(vault, window.since))):
        if isinstance(entry, Altered) or window.holds(_time(entry)):
            yield entry


def _backwards(vault: Vault, since: dt.datetime | None) -> Iterator[Entry | Altered]:
    """From the head on towards the first, a segment at a time."""
    there, checkpoints, _ = audit.objects(vault.store)
    start = max((int(info.name[-10:]) for info in checkpoints), default=1)
    young = takewhile(
        lambda number: since is None or there[number].modified >= since - _SLACK, sorted(there, reverse=True)
    )
    numbers = [number for number in young if number >= start]
    for at in range(0, len(numbers), audit.SEGMENT):
        for entry in _side_by_side(lambda number: _entry(vault, number), numbers[at : at + audit.SEGMENT]):
            if entry is not None:
                yield entry


def _entry(vault: Vault, number: int) -> Entry | Altered | None:
    """None where a prune removed it meanwhile."""
    name = audit.name_of(number)
    try:
        try:
            return audit.decode(vault.keyring, name, vault.fetch(name))
        except Damaged:  # the cache, or the store?
            vault.forget(name)
            return audit.decode(vault.keyring, name, vault.fetch(name))
    except Damaged as error:
        return Altered(number, error.message)
    except ObjectMissing:
        return None


def _time(entry: Entry) -> dt.datetime:
    try:
        return from_iso(str(entry.document.get("time")))
    except ValueError:
        return dt.datetime.min.replace(tzinfo=UTC)


def _unfinished(entry: Entry) -> str:
    import psutil  # type: ignore[import-untyped]  # it has no types

    place: Any = entry.document.get("from") or {}
    if place.get("host") != platform.node():
        return "unknown"
    if place.get("pid") == os.getpid():
        return "running"
    try:
        born = float(psutil.Process(int(place["pid"])).create_time())
    except (psutil.Error, KeyError, TypeError, ValueError):
        return "unknown"
    return "running" if abs(born - float(place.get("born", 0))) < 1 else "unknown"


@dataclass(frozen=True)
class RunSaid:
    """A run's log: what it is, and its lines as documents."""

    log: RunLog
    lines: Sequence[dict[str, Json]]

    @property
    def result(self) -> str:
        """How the run ended; `unknown` where it did not come to say so."""
        last = self.lines[-1] if self.lines else {}
        return str(last.get("result", "unknown")) if last.get("event") == "ended" else "unknown"

    @property
    def action(self) -> str:
        return str(self.lines[0].get("action", self.log.verb)) if self.lines else self.log.verb

    def json(self) -> dict[str, Json]:
        last = self.lines[-1] if self.lines else {}
        return {
            "run": self.log.id,
            "time": iso(self.log.time),
            "action": self.action,
            "environment": self.log.environment,
            "result": self.result,
            "seconds": last.get("seconds"),
            "lines": len(self.lines),
            "object": self.log.name,
        }


def runs(
    loaded: LoadedPolicy, context: Context, *, environment: str | None = None, last: int | None = None
) -> list[RunSaid]:
    """The logs of the newest runs, oldest first. Raises StoreError, the VaultKeyError family."""
    vault = open_for_reading(loaded, context.progress)
    logs = [log for log in runlogs.listed(vault) if environment in {None, log.environment}]
    found = _side_by_side(lambda log: _said(vault, log, context), logs[-last if last else 0 :])
    # Names have seconds, lines have more.
    return sorted(
        (said for said in found if said), key=lambda said: str(said.lines[0].get("time") if said.lines else "")
    )


def run_log(loaded: LoadedPolicy, context: Context, wanted: str) -> RunSaid:
    """The log of the run whose id begins so, or the latest of all (`latest`) or of an environment.

    Raises UsageError where there is none, Damaged.
    """
    vault = open_for_reading(loaded, context.progress)
    logs = list(runlogs.listed(vault))
    environment = wanted.removesuffix("@latest")
    mine = [log for log in logs if log.id.startswith(wanted[:8]) and len(wanted) >= 4]
    if wanted == "latest":
        mine = logs[-1:]
    elif not mine:
        mine = [log for log in logs if log.environment == environment][-1:]
    if len(mine) != 1:
        raise UsageError(
            f"{len(mine)} runs have an id that begins with {wanted}"
            if mine
            else f"there is no log of a run {wanted!r}",
            hint="`keepwell logs` lists them; name one by its id, or as latest, or production@latest.",
        )
    try:
        return RunSaid(mine[0], _lines(runlogs.read(vault, mine[0])))
    except ObjectMissing:
        raise UsageError(f"the log of run {wanted} was just deleted by a prune") from None


def _said(vault: Vault, log: RunLog, context: Context) -> RunSaid | None:
    try:
        return RunSaid(log, _lines(runlogs.decode(vault.keyring, log.name, vault.fetch(log.name))))
    except Damaged as error:
        context.progress.warn(f"{log.name} cannot be read: {error.message}")
    except ObjectMissing:
        pass
    return None


def _lines(text: str) -> list[dict[str, Json]]:
    found: list[dict[str, Json]] = []
    for line in text.splitlines():
        try:
            document = json.loads(line)
        except ValueError:  # the last one of a run that was killed while it wrote
            document = None
        found.append(document if isinstance(document, dict) else {"level": "warning", "event": line})
    return found


def _side_by_side(call: Callable[[_A], _B], items: Iterable[_A]) -> list[_B]:
    with ThreadPoolExecutor(_READERS, "record") as pool:
        return list(pool.map(call, items))


def _moment(option: str, text: str | None, now: dt.datetime) -> dt.datetime | None:
    if text is None:
        return None
    try:
        return now - duration(text)
    except (ValueError, OverflowError):
        pass
    try:
        if len(text) == len("2026-11-22"):
            return dt.datetime.combine(dt.date.fromisoformat(text), dt.time(), UTC)
        return from_iso(text)
    except ValueError:
        raise UsageError(
            f"{option} {text!r} is no time", hint="Write 2026-11-22, 2026-11-22T02:00:00Z, or a time ago: 7d."
        ) from None
