"""Locks that last: what a vault still needs stays locked, however long ago it was written."""

from __future__ import annotations

import datetime as dt

from keepwell.core.progress import Progress
from keepwell.stores.lockable import Lockable, Renewed
from keepwell.stores.probe import store_now
from keepwell.vault import runlogs
from keepwell.vault.layout import pack_name
from keepwell.vault.vault import Vault


def renew_locks(vault: Vault, progress: Progress, record: dt.timedelta | None = None) -> Renewed:
    """Has every object that no prune has condemned locked for (nearly) the whole period again.

    New backups use packs that older ones wrote: without this, the lock of such a pack would be over long before the backup is.
    `record` is how long the audit log and the logs of runs are kept: older ones, which wait only for their lock to end, are left.
    Does nothing for a vault without locks. One or two requests an object. Raises StoreError.
    """
    store = vault.store
    if not isinstance(store, Lockable):
        return Renewed(0, 0)
    progress.note("Renewing the locks of what is needed")
    trash = vault.trash()
    condemned = {pack_name(sha256) for sha256 in trash.packs()} | trash.indexes()
    folders = tuple(trash.backups())
    overdue = ("logs/audit/0", runlogs.PREFIX)  # checkpoints stay
    now = store_now(store) if record is not None else None
    wanted = (
        info.name
        for info in store.list()
        if info.name not in condemned
        and not info.name.startswith(folders)
        and not (now and record and info.name.startswith(overdue) and now - info.modified >= record)
    )
    return store.renew(wanted)
