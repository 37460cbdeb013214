"""A store that fails on cue: for tests of what a lost connection or a killed process leaves behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeAlias, TypeVar

from keepwell.core.errors import StoreError
from keepwell.core.streams import Buffer
from keepwell.stores.base import ObjectInfo, Store

T = TypeVar("T")

Fault: TypeAlias = Literal["before", "after", "crash-before", "crash-after"]
"""Whether StoreError or Crash is raised, and whether before or after the call took effect."""


class Crash(BaseException):
    """The process is dead. Not an Exception, so that no handler of errors goes on."""


class FaultyStore:
    """Passes every call to `inner`, and at call number N (from 1) does what `plan[N]` says.

    Counts put, get, get_range, head, list, delete and flush, also over all threads. After a Crash every later
    call raises Crash. `close` does nothing: the test owns `inner`, and other stores may share it.
    `calls` logs the calls: (verb, name).
    """

    def __init__(self, inner: Store, plan: Mapping[int, Fault] | None = None) -> None:
        self.inner = inner
        self.plan = dict(plan or {})
        self.calls: list[tuple[str, str]] = []
        self.crashed = False
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self.inner.url

    def put(self, name: str, data: Buffer) -> None:
        self._call("put", name, lambda: self.inner.put(name, data))

    def get(self, name: str) -> bytes:
        return self._call("get", name, lambda: self.inner.get(name))

    def get_range(self, name: str, start: int, length: int) -> bytes:
        return self._call("get_range", name, lambda: self.inner.get_range(name, start, length))

    def head(self, name: str) -> ObjectInfo:
        return self._call("head", name, lambda: self.inner.head(name))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._call("list", prefix, lambda: iter(tuple(self.inner.list(prefix))))

    def delete(self, name: str) -> None:
        self._call("delete", name, lambda: self.inner.delete(name))

    def flush(self) -> None:
        self._call("flush", "", self.inner.flush)

    def close(self) -> None:
        pass

    def _call(self, verb: str, name: str, act: Callable[[], T]) -> T:
        with self._lock:
            if self.crashed:
                raise Crash(f"{verb} {name}: the process is dead")
            self.calls.append((verb, name))
            number = len(self.calls)
            fault = self.plan.get(number)
            if fault == "crash-before":
                self.crashed = True
        if fault in {"before", "crash-before"}:
            raise self._failure(fault, number, verb, name)
        result = act()
        if fault in {"after", "crash-after"}:
            with self._lock:
                self.crashed = self.crashed or fault == "crash-after"
            raise self._failure(fault, number, verb, name)
        return result

    @staticmethod
    def _failure(fault: str | None, number: int, verb: str, name: str) -> BaseException:
        text = f"Call {number}, {verb} {name}: failed as planned ({fault})."
        return Crash(text) if fault and fault.startswith("crash") else StoreError(text)
