"""Locks that last: what a vault still needs stays locked, however long ago it was written."""

from __future__ import annotations

from keepwell.core.progress import Progress
from keepwell.stores.lockable import Lockable, Renewed
from keepwell.vault.layout import pack_name
from keepwell.vault.vault import Vault


def renew_locks(vault: Vault, progress: Progress) -> Renewed:
    """Has every object that no prune has condemned locked for (nearly) the whole period again.

    New backups use packs that older ones wrote: without this, the lock of such a pack would be over long before the backup is.
    Does nothing for a vault without locks. One or two requests an object. Raises StoreError.
    """
    store = vault.store
    if not isinstance(store, Lockable):
        return Renewed(0, 0)
    progress.note("Renewing the locks of what is needed")
    trash = vault.trash()
    condemned = {pack_name(sha256) for sha256 in trash.packs()} | trash.indexes()
    folders = tuple(trash.backups())
    wanted = (info.name for info in store.list() if info.name not in condemned and not info.name.startswith(folders))
    return store.renew(wanted)
