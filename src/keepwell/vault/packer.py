"""From frames to stored packs: compression and encryption in a few threads, uploads in others, memory bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from keepwell.core.streams import Buffer
from keepwell.keys.keyring import Keyring
from keepwell.stores.base import Store
from keepwell.vault.frame import Payload, compress
from keepwell.vault.index import FrameTable, PackEntry
from keepwell.vault.layout import PACK_SIZE, pack_name
from keepwell.vault.pack import PackBuilder

_MOST_PACKS = 3
"""Packs in memory at a time: one that fills, and two on their way."""
_MOST_FRAMES = 16
"""Frames that wait for compression or are in it."""
_MOST_WAITING = 1000
"""Threads that a failure wakes; more than any backup has."""


class Packer:
    """Takes frames from any thread; stores full packs. The first failure is raised from every later call."""

    def __init__(
        self, keyring: Keyring, store: Store, table: FrameTable, *, level: int, jobs: int, pack_size: int = PACK_SIZE
    ) -> None:
        self._keyring, self._store, self._table = keyring, store, table
        self._level, self._pack_size = level, pack_size
        self._lock = threading.Lock()
        self._open: PackBuilder | None = None
        self._homes: dict[bytes, int] = {}
        self._compressors = ThreadPoolExecutor(jobs, "compress")
        self._uploaders = ThreadPoolExecutor(_MOST_PACKS - 1, "upload")
        self._frames = threading.Semaphore(_MOST_FRAMES)
        self._packs = threading.Semaphore(_MOST_PACKS)
        self._pending: set[Future[None]] = set()
        self._failure: BaseException | None = None
        self._entries: list[PackEntry] = []
        self.stored = 0
        """Bytes of packs stored so far."""

    def add(self, row: int, lengths: list[int], ids: list[bytes], pieces: list[Buffer]) -> None:
        """One frame; its place is set in the table under `row` before `finish` returns. Blocks while much is under way."""
        self.raise_failure()
        self._frames.acquire()
        if self._failure is not None:
            self._frames.release()
            raise self._failure
        self._submit(self._compressors, lambda: self._frame(row, lengths, ids, pieces), self._frames.release)

    def take_entries(self) -> list[PackEntry]:
        """Entries of the packs that were stored since the last call."""
        with self._lock:
            taken, self._entries = self._entries, []
        return taken

    def finish(self) -> None:
        """Stores everything. Raises what went wrong."""
        self._drain()
        with self._lock:
            pack, self._open = self._open, None
        if pack is not None and pack.seal():
            self._submit(self._uploaders, lambda: self._upload(pack), self._packs.release)
        self._drain()

    def close(self) -> None:
        self._fail(RuntimeError("the backup was ended"))
        self._compressors.shutdown(cancel_futures=True)
        self._uploaders.shutdown(cancel_futures=True)

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: BaseException) -> None:
        """The first error is the one that counts; whoever waits for a place learns of it instead."""
        with self._lock:
            if self._failure is not None:
                return
            self._failure = error
        self._packs.release(_MOST_WAITING)
        self._frames.release(_MOST_WAITING)

    def _submit(self, pool: ThreadPoolExecutor, work: Callable[[], None], after: Callable[[], object]) -> None:
        def run() -> None:
            try:
                if self._failure is None:
                    work()
            except BaseException as error:  # whatever it is must reach the thread that waits
                self._fail(error)

        # Not under the lock: a pool that is shut down cancels under a lock of its own, and cancelling calls `_done`.
        try:
            future = pool.submit(run)
        except RuntimeError:  # closed meanwhile
            after()
            raise self._failure or RuntimeError("the backup was ended") from None
        with self._lock:
            self._pending.add(future)
        # Not in `run`: work that is cancelled never runs, and its place must be free again all the same.
        future.add_done_callback(lambda _: after())
        future.add_done_callback(self._done)

    def _done(self, future: Future[None]) -> None:
        with self._lock:
            self._pending.discard(future)

    def _drain(self) -> None:
        while True:
            with self._lock:
                waiting = list(self._pending)
            if not waiting:
                break
            for future in waiting:
                future.result()
        self.raise_failure()

    def _frame(self, row: int, lengths: list[int], ids: list[bytes], pieces: list[Buffer]) -> None:
        payload = compress(lengths, pieces, self._level)
        while (place := self._reserve(row, payload, ids)) is None:
            self._begin_pack()
        pack, number, offset = place
        if pack.fill(number, offset, payload):
            self._submit(self._uploaders, lambda: self._upload(pack), self._packs.release)

    def _reserve(self, row: int, payload: Payload, ids: list[bytes]) -> tuple[PackBuilder, int, int] | None:
        """A place in the open pack; None where no pack is open."""
        with self._lock:
            pack = self._open
            if pack is None:
                return None
            number, offset = pack.reserve(payload.stored, ids)
            self._table.set(row, self._homes[pack.birth], number, offset, payload.stored)
            if pack.full:
                self._open = None
                pack.seal()  # cannot be complete yet: this very frame is not filled
            return pack, number, offset

    def _begin_pack(self) -> None:
        self._packs.acquire()
        try:
            self.raise_failure()
            if not self._is_open() and self._opened(PackBuilder(self._keyring, self._pack_size)):
                return
        except BaseException:
            self._packs.release()
            raise
        self._packs.release()

    def _is_open(self) -> bool:
        with self._lock:
            return self._open is not None

    def _opened(self, pack: PackBuilder) -> bool:
        """False where another thread was first."""
        with self._lock:
            if self._open is not None:
                return False
            self._homes[pack.birth] = self._table.home(pack.birth)
            self._open = pack
            return True

    def _upload(self, pack: PackBuilder) -> None:
        data, entry = pack.finish()
        self._store.put(pack_name(entry.pack), data)
        with self._lock:
            self._table.homes[self._homes.pop(pack.birth)] = (pack.birth, entry.pack)
            self._entries.append(entry)
            self.stored += entry.size
