"""Questions to a store that only a real object answers: does it overwrite, and what time is it there."""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
from collections.abc import Iterator

from keepwell.core.errors import ObjectExists, StoreError, UnsafeStore
from keepwell.stores.base import Store

PREFIX = "probes/"


def verify_conditional_put(store: Store) -> None:
    """Returns when the store is seen to refuse a second put of a taken name. Raises UnsafeStore, StoreError.

    Puts and deletes one small object below `probes/`. Where deleting is forbidden (a lock, a writer without the
    right) the object stays; it is harmless.
    """
    first, second = secrets.token_bytes(32), secrets.token_bytes(33)
    with _probe(store) as name:
        store.put(name, first)
        accepted = True
        try:
            store.put(name, second)
        except ObjectExists:
            accepted = False
        if accepted or store.get(name) != first:
            raise UnsafeStore(
                f"The store {store.url} overwrites objects: it took a second put of a name that was in use, although "
                "keepwell asked it not to.",
                hint="Two backups at once, or one retry after a lost answer, could destroy what another backup needs. "
                "Use a store that honours conditional puts (If-None-Match): Amazon S3, Google Cloud Storage, Azure "
                "Blob Storage, MinIO, a local folder. `rclone serve s3` is known not to; Ceph's gateway honours them only "
                "in buckets without versioning and object lock.",
            )


def store_now(store: Store) -> dt.datetime:
    """The time by the store's clock, in UTC, to a second or so. Puts and deletes one small object below `probes/`."""
    with _probe(store) as name:
        store.put(name, b"what time is it?\n")
        return store.head(name).modified


@contextlib.contextmanager
def _probe(store: Store) -> Iterator[str]:
    name = PREFIX + secrets.token_hex(16)
    try:
        yield name
    finally:
        with contextlib.suppress(StoreError):  # not allowed to delete, or already failing: the first error counts
            store.delete(name)
