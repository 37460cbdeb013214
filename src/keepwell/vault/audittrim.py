"""The front of the audit log when it is too old, and the log in a copy of the vault (docs/format.md, section 13)."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from keepwell.core.clock import iso
from keepwell.core.errors import Damaged, ObjectExists, ObjectMissing, StoreDenied
from keepwell.core.progress import Progress
from keepwell.stores.base import ObjectInfo
from keepwell.stores.lockable import held
from keepwell.stores.probe import store_now
from keepwell.vault import audit
from keepwell.vault.vault import Vault


def due(entries: dict[int, ObjectInfo], keep: dt.timedelta, now: dt.datetime) -> int:
    """The first entry that stays: those before it are older than `keep`, in whole segments, never the last one."""
    if not entries:
        return 1
    last = max(entries)
    first = (last - 1) // audit.SEGMENT * audit.SEGMENT + 1
    for number in sorted(entries):
        if number >= first:
            break
        if now - entries[number].modified < keep:
            return (number - 1) // audit.SEGMENT * audit.SEGMENT + 1
    return first


def trim(vault: Vault, keep: dt.timedelta, now: dt.datetime, progress: Progress) -> int:
    """Removes what is older than `keep`, by the store's clock; returns the number of entries that went.

    A hole among them does not hold them for ever: it was there to be seen for all the time to keep, and is told once more.
    """
    store, keyring = vault.store, vault.keyring
    entries, checkpoints, _ = audit.objects(store)
    try:
        before = audit.last_checkpoint(store, keyring, checkpoints)
    except Damaged as error:
        progress.warn(f"the audit log is left as it is: {error.message}")
        return 0
    start = before.first if before else 1
    first = _unlocked(vault, entries, max(start, due(entries, keep, now)), now)
    if first > start:
        missing = first - start - sum(1 for number in entries if start <= number < first)
        previous = _hash_before(vault, first, entries)
        if previous is None:
            progress.warn(f"the audit log is left as it is: entry {first}, its new beginning, is missing or altered")
            return _drop(vault, start, entries, progress)
        if missing:
            progress.warn(
                f"{missing} of the entries {start} to {first - 1} of the audit log were missing when these were removed"
            )
        document = {"removed": [start, first - 1], "missing": missing, "time": iso(now)}
        name = audit.checkpoint_name(first)
        try:
            store.put(name, audit.encode_checkpoint(keyring, first, previous, document))
        except ObjectExists:  # another prune was first, and says the same
            progress.note("Another prune removes the same entries of the audit log")
        store.flush()
    return _drop(vault, first, entries, progress)


def _hash_before(vault: Vault, first: int, entries: dict[int, ObjectInfo]) -> str | None:
    """What the entry `first` must follow on; None where that cannot be known."""
    if first - 1 in entries:
        return audit.sha256_of(vault.store.get(audit.name_of(first - 1)))
    name = audit.name_of(first)
    try:
        return audit.decode(vault.keyring, name, vault.store.get(name)).previous
    except (Damaged, ObjectMissing):
        return None


def _unlocked(vault: Vault, entries: dict[int, ObjectInfo], first: int, now: dt.datetime) -> int:
    """`first`, or less where a lock protects something before it."""
    for begin in sorted({(number - 1) // audit.SEGMENT * audit.SEGMENT + 1 for number in entries if number < first}):
        names = [audit.name_of(n) for n in range(begin, begin + audit.SEGMENT) if n in entries]
        if held(vault.store, reversed(names), now):
            return begin
    return first


def _drop(vault: Vault, first: int, entries: dict[int, ObjectInfo], progress: Progress) -> int:
    """Deletes what lies before a checkpoint, and older checkpoints, once it is in the store for good."""
    gone = 0
    try:
        for number in sorted(entries):
            if number >= first:
                break
            vault.store.delete(audit.name_of(number))
            gone += 1
        for info in audit.objects(vault.store)[1][:-1]:
            vault.store.delete(info.name)
    except StoreDenied as error:
        progress.warn(f"{error} (old entries of the audit log stay until then)")
    return gone


@dataclass
class Brought:
    """What came to a copy."""

    objects: int = 0
    bytes: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def copy(near: Vault, far: Vault, progress: Progress) -> Brought:
    """Has the far vault's audit log in step with the near one's. Raises StoreError, Damaged (of a checkpoint)."""
    report = Brought()
    here, checkpoints, _ = audit.objects(near.store)
    there, far_checkpoints, _ = audit.objects(far.store)
    last, far_last = max(here, default=0), max(there, default=0)
    if far_last > last:
        name = audit.name_of(last + 1)
        report.failed[name] = (
            f"the copy has entries of the audit log up to {far_last}, the vault only up to {last}: its end was cut off"
        )
    start = audit.last_checkpoint(near.store, near.keyring, checkpoints)
    # The newest entry that both have tells whether they are one chain.
    if both := max(here.keys() & there.keys(), default=0):
        name = audit.name_of(both)
        if near.store.get(name) != far.store.get(name):
            report.failed[name] = f"entry {both} of the audit log is another one in the copy"
    if report.failed:
        for problem in report.failed.values():
            progress.warn(f"the audit log was not copied: {problem}. `keepwell audit verify` tells more")
        return report
    begin = start.first if start else 1
    missing = [audit.name_of(number) for number in sorted(here) if number >= begin and number not in there]
    if start and start.name not in {info.name for info in far_checkpoints}:
        missing.append(start.name)
    for name, raw in audit.fetched(near.store, missing):
        if raw is None:
            continue
        try:
            far.store.put(name, raw)
        except ObjectExists:
            if far.store.get(name) != raw:
                raise
        report.objects += 1
        report.bytes += len(raw)
    far.store.flush()
    if any(number < begin for number in there):
        _drop(far, _unlocked(far, there, begin, store_now(far.store)), there, progress)
    return report
