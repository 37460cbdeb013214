"""The contract between the source `bucket` and places that hold objects: buckets, and folders they are restored into.

Unlike a store of a vault, such a place has any names, metadata with each object, and others write to it meanwhile.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from keepwell.core.streams import Buffer


class ObjectChanged(Exception):  # named by what happened, as those of core.errors; never reaches a user
    """The object is not the one that was listed."""


@dataclass(frozen=True, slots=True)
class ObjectState:
    """An object as it is at one moment."""

    name: str
    """`/`-separated, without empty, `.` or `..` parts."""
    size: int
    modified: dt.datetime
    etag: str | None = None
    """As the service gives it, without quotes. None: it gives none."""
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """An object that is being read."""

    state: ObjectState
    attributes: Mapping[str, str]
    """`Content-Type`, `Content-Encoding`, `Content-Language`, `Content-Disposition`, `Cache-Control`, and the user's own
    metadata under their own names."""
    blocks: Iterator[Buffer]
    """The content. Raises StoreError, ObjectChanged."""


class Objects(Protocol):
    """All methods but the blocks of one object may be called from several threads. They raise the StoreError family."""

    @property
    def url(self) -> str:
        """The address, without secrets."""
        ...

    @property
    def md5_etags(self) -> bool:
        """Whether the ETag of an object that was written in one piece is the MD5 of its content, unless a key of the
        service's key management encrypts it.
        """
        ...

    def list(self) -> Iterator[ObjectState]: ...

    def look(self, name: str) -> ObjectState:
        """Raises ObjectMissing."""
        ...

    def open(self, state: ObjectState) -> Opened:
        """Exactly this state of the object. Raises ObjectMissing, ObjectChanged."""
        ...

    def put(
        self, name: str, content: Iterable[Buffer], size: int, state: ObjectState, attributes: Mapping[str, str]
    ) -> None:
        """A new object with this content and these attributes. `state` is how it was, for places that can keep that.

        Raises ObjectExists, TargetNotEmpty.
        """
        ...
