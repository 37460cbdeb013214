"""Stores whose objects can be locked against deletion, as the vault sees them: without loading any library."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from keepwell.core.errors import ObjectMissing
from keepwell.stores.base import Store


@dataclass(frozen=True)
class Renewed:
    """What a renewal of locks did."""

    objects: int
    """Looked at."""
    renewed: int


@runtime_checkable
class Lockable(Protocol):
    """What a store with locks has beside `Store`."""

    def locked_until(self, name: str) -> dt.datetime | None:
        """The moment from which the object can be deleted; None where it is not locked. Raises ObjectMissing."""
        ...

    def renew(self, names: Iterable[str]) -> Renewed:
        """Has every object locked for (nearly) the whole period again; missing ones are passed over."""
        ...


def held(store: Store, names: Iterable[str], now: dt.datetime) -> dt.datetime | None:
    """Until when the first of these objects that is locked stays so; None where none is, or the store has no locks."""
    if not isinstance(store, Lockable):
        return None
    for name in names:
        try:
            until = store.locked_until(name)
        except ObjectMissing:
            continue
        if until is not None and until > now:
            return until
    return None
