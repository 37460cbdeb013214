"""Pieces of log into the vault, for as long as it takes: threads that put, and patience with a store that fails."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol, TypeAlias

from keepwell.core.clock import Clock
from keepwell.core.errors import StoreError
from keepwell.core.progress import Progress
from keepwell.core.units import show_duration, show_size
from keepwell.operations.wal_intake import Piece

Put: TypeAlias = Callable[[Piece], object]
Outcome: TypeAlias = tuple[Piece, BaseException | None]

SIDE_BY_SIDE = 2
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


class Workers(Protocol):
    def submit(self, piece: Piece) -> None: ...

    def outcomes(self, wait: float) -> list[Outcome]:
        """What has ended; waits up to so many seconds for the first."""
        ...

    def close(self) -> None: ...


class Threads:
    """Workers that die with the process: a put that hangs never keeps it from ending."""

    def __init__(self, put: Put, count: int = SIDE_BY_SIDE) -> None:
        self._put = put
        self._todo: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"wal-put-{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, piece: Piece) -> None:
        self._todo.put(piece)

    def outcomes(self, wait: float) -> list[Outcome]:
        found: list[Outcome] = []
        try:
            found.append(self._ended.get(timeout=wait) if wait > 0 else self._ended.get_nowait())
            while True:
                found.append(self._ended.get_nowait())
        except queue.Empty:
            return found

    def close(self) -> None:
        for _ in self._threads:
            self._todo.put(None)

    def _work(self) -> None:
        while (piece := self._todo.get()) is not None:
            try:
                self._put(piece)
            except BaseException as error:  # told to the main thread, which raises it
                self._ended.put((piece, error))
            else:
                self._ended.put((piece, None))


class Delivery:
    """Hands pieces to workers, and again where the store failed, with longer and longer pauses up to half a minute."""

    def __init__(self, workers: Workers, clock: Clock, progress: Progress) -> None:
        self.outage: StoreError | None = None
        """Why the store does not take anything at the moment."""
        self._workers, self._clock, self._progress = workers, clock, progress
        self._active = 0
        self._again: list[Piece] = []
        self._since = self._retry = 0.0
        self._pause = _FIRST_PAUSE

    @property
    def room(self) -> bool:
        return self.outage is None and self._active < SIDE_BY_SIDE

    def send(self, piece: Piece) -> None:
        self._active += 1
        self._workers.submit(piece)

    def collect(self, wait: float = 0.0, *, waiting: int = 0) -> list[Piece]:
        """Pieces that are in the vault now; `waiting` bytes are for the warning of an outage.

        Raises whatever is no outage of the store: log that differs, a wrong key, a fault.
        """
        now = self._clock.monotonic()
        if self._again and now + 0.001 >= self._retry and not self._active:
            self.send(self._again.pop(0))
        if not self._active and self._again:
            wait = min(wait, self._retry - now)
        done: list[Piece] = []
        for piece, error in self._workers.outcomes(wait):
            self._active -= 1
            if error is None:
                self._back()
                done.append(piece)
            elif isinstance(error, StoreError):
                self._lost(piece, error, waiting)
            else:
                raise error
        return done

    def close(self) -> None:
        self._workers.close()

    def _lost(self, piece: Piece, error: StoreError, waiting: int) -> None:
        now = self._clock.monotonic()
        if self.outage is None:
            self._since, self._pause = now, _FIRST_PAUSE
            self._progress.warn(
                f"The store takes no log: {error.message}. {show_size(waiting)} wait here; the server keeps what follows. "
                f"{error.hint}".strip()
            )
        else:
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        self.outage = error
        self._again.append(piece)
        self._again.sort(key=lambda one: one.start)
        self._retry = now + self._pause

    def _back(self) -> None:
        if self.outage is not None:
            self._progress.note(
                f"The store takes log again, after {show_duration(self._clock.monotonic() - self._since)}."
            )
            self.outage = None
        self._retry = 0.0
