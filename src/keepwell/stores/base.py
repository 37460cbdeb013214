"""The contract of an object store: six calls, every one safe to repeat, none that overwrites.

Names are relative (`packs/ab/abcd…`), `/`-separated, ASCII, without empty, `.` or `..` parts.
All methods are safe to call from several threads. They raise the StoreError family of `core.errors`
and nothing else: a library's own exception never leaves a store.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from keepwell.core.streams import Buffer


@dataclass(frozen=True)
class ObjectInfo:
    name: str
    size: int
    modified: dt.datetime
    """When the object was made, by the store's clock, in UTC."""


@dataclass(frozen=True)
class Lock:
    """How long an object cannot be deleted after it was written, and whether an administrator may do so all the same."""

    period: dt.timedelta
    mode: str = "compliance"
    """`compliance`: nobody may. `governance`: those with the right s3:BypassGovernanceRetention may."""


class Store(Protocol):
    @property
    def url(self) -> str:
        """The address, without secrets: for messages and cache names."""
        ...

    def put(self, name: str, data: Buffer) -> None:
        """Create the object, whole or not at all. Raises ObjectExists where the name is taken.

        A retry after a lost answer may find its own object: then the content is compared, and the same
        content is success. Durable against power loss only after `flush()`.
        """
        ...

    def get(self, name: str) -> bytes:
        """The whole object. Raises ObjectMissing."""
        ...

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Bytes from `start`; fewer than `length` only where the object ends. Raises ObjectMissing."""
        ...

    def head(self, name: str) -> ObjectInfo:
        """Raises ObjectMissing."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose name begins with `prefix` (at a `/`: `wal/` or `production/daily/`), by name order.

        Sees every object whose put returned before the call (all supported stores are strongly consistent).
        """
        ...

    def delete(self, name: str) -> None:
        """Remove the object; removing what is not there is no error. Raises StoreDenied where a lock forbids it."""
        ...

    def flush(self) -> None:
        """Returns when everything put so far survives a power loss (fsync of files and folders; no-op for clouds)."""
        ...

    def close(self) -> None: ...
