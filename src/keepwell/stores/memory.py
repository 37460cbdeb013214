"""A store in memory: for fast, deterministic tests of everything above."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator

from keepwell.core.clock import Clock, FakeClock
from keepwell.core.errors import ObjectExists, ObjectMissing, StoreError
from keepwell.core.streams import Buffer
from keepwell.stores.base import ObjectInfo
from keepwell.stores.names import check_name, check_prefix


class MemoryStore:
    """Fulfils `Store`. `clock` is the store's clock; it may be replaced at any time.

    `writes` logs what changed, in order: ("put", name), ("delete", name), ("flush", "").
    `objects` may be changed by a test to damage the store: {name: (content, when)}.
    """

    def __init__(self, clock: Clock | None = None, *, name: str = "test") -> None:
        self.clock = clock or FakeClock()
        self.objects: dict[str, tuple[bytes, dt.datetime]] = {}
        self.writes: list[tuple[str, str]] = []
        self._durable: dict[str, tuple[bytes, dt.datetime]] = {}
        self._lock = threading.RLock()
        self._name = name

    @property
    def url(self) -> str:
        return f"memory://{self._name}"

    def put(self, name: str, data: Buffer) -> None:
        check_name(name)
        content = bytes(data)
        with self._lock:
            if name in self.objects:
                if self.objects[name][0] != content:
                    raise ObjectExists(f"{name} is already in {self.url}, with other content.")
                return
            self.objects[name] = (content, self.clock.now())
            self.writes.append(("put", name))

    def get(self, name: str) -> bytes:
        return self._find(name)[0]

    def get_range(self, name: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise StoreError(f"{name!r} has no bytes {start} to {start + length}.")
        return self._find(name)[0][start : start + length]

    def head(self, name: str) -> ObjectInfo:
        content, modified = self._find(name)
        return ObjectInfo(name, len(content), modified)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        with self._lock:
            found = [
                ObjectInfo(name, len(content), modified)
                for name, (content, modified) in self.objects.items()
                if name.startswith(prefix)
            ]
        return iter(sorted(found, key=lambda info: info.name))

    def delete(self, name: str) -> None:
        check_name(name)
        with self._lock:
            if self.objects.pop(name, None) is not None:
                self.writes.append(("delete", name))

    def flush(self) -> None:
        with self._lock:
            self._durable = dict(self.objects)
            self.writes.append(("flush", ""))

    def close(self) -> None:
        pass

    def lose_power(self, survives: Callable[[str], bool] = lambda _: False) -> None:
        """Fall back to the last flush. Of later puts and deletions only those stay for whose name `survives`."""
        with self._lock:
            after = {name: old for name, old in self._durable.items() if name in self.objects or not survives(name)}
            after |= {name: new for name, new in self.objects.items() if name not in self._durable and survives(name)}
            self.objects = after
            self._durable = dict(after)

    def _find(self, name: str) -> tuple[bytes, dt.datetime]:
        check_name(name)
        with self._lock:
            try:
                return self.objects[name]
            except KeyError:
                raise ObjectMissing(f"{name} is not in {self.url}.") from None
