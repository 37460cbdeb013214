"""Around every action: an entry in the audit log before it takes effect, one after it, and the run's log.

    with recorded(loaded, context, "restore", "production", strict=False) as record:
        result = restore(loaded, request, context)
        record.ended("done", details={"backup": result.backup})

For the runs that are watched, `watch.runs.watched` does this itself: an engine that calls `watched` needs nothing else. Say who
calls with `core.caller.called("schedule", [job.ident])` around it. Inside the block `open_vault(loaded)` gives the vault that was opened for
the entry (with the very same `loaded`), the context's progress is written down, and backups carry the entry as an anchor.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import platform
import pwd
import re
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keepwell import __version__
from keepwell.core.caller import caller
from keepwell.core.clock import iso
from keepwell.core.errors import Busy, Interrupted, KeepwellError
from keepwell.core.secrets import redacted
from keepwell.core.streams import Context, Json
from keepwell.operations.heads import Heads, folder_of
from keepwell.operations.opening import open_vault, sharing
from keepwell.operations.runlog import RunLog, bring_left
from keepwell.policy.load import LoadedPolicy
from keepwell.vault import audit, runlogs
from keepwell.vault.audit import Entry, Head
from keepwell.vault.vault import Vault

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


@dataclass
class Record:
    """What will be said of the action at its end. Raising says it failed; nothing said means done."""

    run: str
    action: str
    environment: str | None
    entry: Entry | None = None
    """`begun`; None where it could not be written and the action goes on all the same."""
    outcome: dict[str, Json] = field(default_factory=lambda: {"result": "done"})

    def ended(
        self,
        result: str,
        message: str = "",
        *,
        hint: str = "",
        kind: str = "",
        details: Mapping[str, Json] | None = None,
    ) -> None:
        """`result` is `done`, `warnings`, `failed`, `busy` or `interrupted`."""
        said: dict[str, Json] = {"kind": kind, "message": message, "hint": hint, "details": dict(details or {})}
        self.outcome = {"result": result} | {key: value for key, value in said.items() if value}


@contextlib.contextmanager
def recorded(
    loaded: LoadedPolicy,
    context: Context,
    action: str,
    environment: str | None = None,
    *,
    details: Mapping[str, Json] | None = None,
    run: str = "",
    strict: bool = True,
    log: bool = True,
) -> Iterator[Record]:
    """`strict`: an entry that cannot be written stops the action before it begins (StoreError and its kin); otherwise that is
    a warning. `log`: whether what is said goes into a log of the run. Lets every exception through.
    """
    record = Record(run or str(uuid.uuid4()), action, environment if _NAME.fullmatch(environment or "") else None)
    began, started = context.clock.now(), context.clock.monotonic()
    name = runlogs.name_for(action, record.environment, record.run, began) if log else ""
    with contextlib.ExitStack() as stack:
        try:
            vault = open_vault(loaded)
        except KeepwellError as error:
            if strict:
                raise
            _not_recorded(context, record, error)
            with sharing(loaded, error):
                yield record
            return
        stack.enter_context(sharing(loaded, vault))
        try:
            record.entry = _begin(loaded, vault, context, record, began, name, details)
        except KeepwellError as error:
            if strict:
                raise _refused(record, error) from error
            _not_recorded(context, record, error)
            yield record
            return
        stack.enter_context(_bound(record))
        kept = _keeping(loaded, vault, context, record, name) if log else None
        outer = context.progress
        if kept is not None:
            context.progress = kept
        try:
            yield record
        except BaseException as error:
            record.outcome = _outcome(error)
            raise
        finally:
            context.progress = outer
            seconds = round(context.clock.monotonic() - started, 3)
            if kept is not None:
                _finish(kept, vault, context, record, seconds)
            _end(loaded, vault, context, record, seconds)


def first_entry(loaded: LoadedPolicy, context: Context, vault: Vault, action: str) -> None:
    """Of `init`: the vault had to be there before its log could say so."""
    record = Record(str(uuid.uuid4()), action, None)
    record.entry = _begin(loaded, vault, context, record, context.clock.now(), "", None)
    _end(loaded, vault, context, record, 0)


def due_today(context: Context, what: str) -> bool:
    """Whether `what`, which happens too often for an entry each time, has had none yet today on this machine."""
    if context.cache is None:
        return True
    place = context.cache / "audit" / re.sub(r"[^A-Za-z0-9._-]", "_", what)
    today = f"{context.clock.now():%Y-%m-%d}"
    try:
        if place.exists() and place.read_text() == today:
            return False
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.write_text(today)
    except OSError:
        return True
    return True


def _refused(record: Record, error: KeepwellError) -> KeepwellError:
    return type(error)(
        f"{record.action} was not begun, since the audit log does not take its entry: {error.message}", hint=error.hint
    )


def _not_recorded(context: Context, record: Record, error: KeepwellError) -> None:
    context.progress.warn(f"this {record.action} is not in the audit log: {error.message}")


def _begin(
    loaded: LoadedPolicy,
    vault: Vault,
    context: Context,
    record: Record,
    began: dt.datetime,
    name: str,
    details: Mapping[str, Json] | None,
) -> Entry:
    vault.config.require("write")
    called = caller()
    document: dict[str, Json] = {
        "event": "begun",
        "run": record.run,
        "time": iso(began),
        "action": record.action,
        "environment": record.environment,
        "who": _who(vault),
        "from": _where(),
        "by": called.by,
        "command": list(called.command),
        "program": f"keepwell {__version__}",
        "details": dict(details or {}),
        "log": name or None,
    }
    heads = Heads(folder_of(loaded))
    known = heads.known(vault.id)
    entry, before = audit.append(vault.store, vault.keyring, redacted(document), known)
    if before.number < known.number:
        context.progress.warn(
            f"the audit log of {vault.store.url} ended with entry {before.number}, and this machine has seen entry "
            f"{known.number}: its end was cut off. `keepwell audit verify` tells more"
        )
    _remember(heads, vault, entry.head, context)
    vault.anchor = entry.head.json()
    return entry


def _end(loaded: LoadedPolicy, vault: Vault, context: Context, record: Record, seconds: float) -> None:
    """What was done is done: that it cannot be written down is a warning."""
    assert record.entry is not None
    document: dict[str, Json] = {
        "event": "ended",
        "run": record.run,
        "time": iso(context.clock.now()),
        "begun": record.entry.number,
        "seconds": seconds,
        **record.outcome,
    }
    try:
        entry, _ = audit.append(
            vault.store, vault.keyring, redacted(document), record.entry.head, fresh=seconds < audit.FRESH
        )
    except KeepwellError as error:
        context.progress.warn(f"how this {record.action} ended is not in the audit log: {error.message}")
        return
    _remember(Heads(folder_of(loaded)), vault, entry.head, context)


def _remember(heads: Heads, vault: Vault, head: Head, context: Context) -> None:
    try:
        heads.remember(vault.id, head)
    except OSError as error:
        context.progress.warn(
            f"this machine cannot remember where the audit log ends ({heads.path}: {error.strerror}): that its end is cut "
            "off would not be noticed here"
        )


def _keeping(loaded: LoadedPolicy, vault: Vault, context: Context, record: Record, name: str) -> RunLog:
    folder: Path = folder_of(loaded) / "runs" / vault.id
    bring_left(vault, folder, context.progress)
    kept = RunLog(context.progress, context.clock, folder, name)
    called = caller()
    kept.line(
        "info",
        "begins",
        run=record.run,
        action=record.action,
        environment=record.environment,
        host=platform.node(),
        pid=os.getpid(),
        by=called.by,
        command=list(called.command),
        program=f"keepwell {__version__}",
        audit=record.entry.number if record.entry else None,
    )
    return kept


def _finish(kept: RunLog, vault: Vault, context: Context, record: Record, seconds: float) -> None:
    level = {"done": "info", "warnings": "warning"}.get(str(record.outcome["result"]), "error")
    kept.line(level, "ended", **record.outcome, seconds=seconds)
    try:
        kept.finish(vault)
    except KeepwellError as error:
        context.progress.warn(f"the log of this {record.action} is not in the vault yet: {error.message}")


def _outcome(error: BaseException) -> dict[str, Json]:
    if isinstance(error, (KeyboardInterrupt, Interrupted, GeneratorExit)):
        return {"result": "interrupted"}
    if isinstance(error, KeepwellError):
        told = {"result": "busy" if isinstance(error, Busy) else "failed", "kind": type(error).__name__}
        return told | {"message": error.message} | ({"hint": error.hint} if error.hint else {})
    # The text of an unknown error may hold anything.
    return {"result": "failed", "kind": "Unexpected", "message": f"unexpected {type(error).__name__}"}


def _who(vault: Vault) -> dict[str, Json]:
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    found: dict[str, Json] = {"user": user, "slot": vault.keyring.slot, "role": vault.keyring.role}
    sudo = os.environ.get("SUDO_USER")
    return found | ({"sudo_user": sudo} if sudo else {})


def _where() -> dict[str, Json]:
    import psutil  # type: ignore[import-untyped]  # it has no types

    found: dict[str, Json] = {
        "host": platform.node(),
        "pid": os.getpid(),
        "born": round(psutil.Process().create_time(), 2),
    }
    if address := os.environ.get("SSH_CONNECTION", "").partition(" ")[0]:
        found["address"] = address
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found["terminal"] = os.ttyname(sys.stdin.fileno())
    return found


@contextlib.contextmanager
def _bound(record: Record) -> Iterator[None]:
    """Log lines name the run, where this process writes any: structlog alone takes a quarter of a second to load."""
    logs: Any = sys.modules.get("keepwell.core.logs")
    if logs is None:
        yield
        return
    with logs.bound(run=record.run, verb=record.action, environment=record.environment):
        yield
