"""The log of clusters, brought to a copy of the vault (docs/format.md, section 12)."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

from keepwell.core.errors import Damaged, KeepwellError, ObjectExists, ObjectMissing
from keepwell.core.progress import Progress
from keepwell.vault.copying import CopyReport
from keepwell.vault.vault import Vault

_SIDE_BY_SIDE = 4
_FLUSH_EVERY = 64


def copy(near: Vault, far: Vault, folders: list[str], unneeded: set[str], progress: Progress) -> CopyReport:
    """Brings what is below these folders and is not there, oldest names first, but for `unneeded`: what the copy's own rules would
    delete at once. Each object is read back. One that fails does not hold up the others.

    Raises StoreError where a store cannot be reached.
    """
    report = CopyReport()
    wanted: list[str] = []
    for folder in folders:
        there = {info.name: info.size for info in far.store.list(folder)}
        found = {info.name: info.size for info in near.store.list(folder) if info.name not in unneeded}
        wanted += sorted(name for name, size in found.items() if there.get(name) != size)
    if not wanted:
        return report
    progress.begin("Copy the log", len(wanted), "objects")
    with ThreadPoolExecutor(_SIDE_BY_SIDE, "copy") as pool:
        for at in range(0, len(wanted), _FLUSH_EVERY):
            some = wanted[at : at + _FLUSH_EVERY]
            for name, result in zip(some, pool.map(lambda name: _bring(near, far, name), some), strict=True):
                if isinstance(result, KeepwellError):
                    report.failed[name] = result.message
                    progress.warn(f"{name} was not copied: {result.message}")
                else:
                    report.objects += result > 0
                    report.bytes += result
                progress.advance("Copy the log")
            far.store.flush()
    progress.end("Copy the log")
    return report


def _bring(near: Vault, far: Vault, name: str) -> int | KeepwellError:
    """Bytes brought; 0 where it went away meanwhile: then nobody needs it any more."""
    try:
        raw = near.store.get(name)
    except ObjectMissing:
        return 0
    with contextlib.suppress(ObjectExists):  # from a run that died; what is there is compared below
        far.store.put(name, raw)
    # Some servers accept what they were sent wrong; a copy counts when it was read back.
    if far.store.get(name) != raw:
        return Damaged(
            f"{name} has other bytes at {far.store.url} than in the first store",
            hint="Delete it there, if `keepwell check` finds the first one whole, and copy again.",
        )
    return len(raw)
