"""Reading one object: exactly one state of it, the same from beginning to end, compared with what the service says of it."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from blake3 import blake3

from keepwell.core.errors import SourceError
from keepwell.core.objects import ObjectChanged, Objects, ObjectState
from keepwell.core.streams import Buffer
from keepwell.sources.bucket.spec import asked

_TRIES = 4
_MD5 = re.compile("([0-9a-f]{32})")
_ENOUGH = 3


@dataclass(frozen=True, slots=True)
class Content:
    """What was read, and what the object was then."""

    state: ObjectState
    attributes: Mapping[str, str]
    digest: str


class ObjectReader:
    """Counts what was `verified` by MD5, and names what has another ETag although it reads the same twice (`unmatched`)."""

    def __init__(self, objects: Objects) -> None:
        self.verified = 0
        self.unmatched: list[str] = []
        self._objects = objects
        self._lock = threading.Lock()

    @property
    def _tells_nothing(self) -> bool:
        """Objects that a key of the service's key management encrypts have an ETag that looks like an MD5 and is none."""
        return not self.verified and len(self.unmatched) >= _ENOUGH

    def read(self, state: ObjectState, begin: Callable[[], Callable[[Buffer], object]]) -> Content:
        """The object as it was listed, or as it is now where it has changed since.

        `begin` is called for each try and gives what takes the blocks; only what the last one took counts. Raises
        ObjectMissing, SourceError where it never stays the same for long enough.
        """
        before = ""
        for _ in range(_TRIES):
            take, plain, md5, size = begin(), blake3(), hashlib.md5(usedforsecurity=False), 0
            try:
                with asked():
                    opened = self._objects.open(state)
                    for block in opened.blocks:
                        size += len(block)
                        plain.update(block)
                        md5.update(block)
                        take(block)
            except ObjectChanged:
                with asked():
                    state = self._objects.look(state.name)
                continue
            if size != opened.state.size:
                continue  # the connection ended early, and the library did not notice
            digest = plain.hexdigest()
            wanted = _MD5.fullmatch(opened.state.etag or "") if self._objects.md5_etags else None
            if wanted is not None and not self._tells_nothing:
                if wanted[1] == md5.hexdigest():
                    with self._lock:
                        self.verified += 1
                elif before != digest:
                    before = digest
                    continue
                else:
                    self.unmatched.append(state.name)
            return Content(opened.state, opened.attributes, digest)
        raise SourceError(
            f"{state.name} in {self._objects.url} could not be read the same {_TRIES} times over: it changes all the time, or is "
            "damaged on the way",
            hint="Take the backup again when nothing writes it, or name it in `exclude` if it does not matter.",
        )
