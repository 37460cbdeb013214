"""Frames opened by processes beside this one, into memory that all of them share.

Of what a restore does, decoding and checking takes most of the processors' time. A second thread makes that a quarter
faster: pages are small, and each one that is hashed hands the interpreter from thread to thread (docs/why/speed.md).

All of it is only for speed: whatever a process cannot or will not do, the caller does itself.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeAlias

from keepwell.vault.frame import FRAME_SIZE
from keepwell.vault.helper import Helper, shared_memory
from keepwell.vault.opener import BEGIN, COUNT, DONE, REQUEST, RUN

Run: TypeAlias = tuple[int, int, int, int]
"""First piece, pieces, bytes and check of an extent."""
_ROOM = FRAME_SIZE + (128 << 10)
"""For a frame, stored or opened: the last piece may be longer than what was left of it."""
_MOST_RUNS = 1024


class Opened:
    """An opened frame; its memory is used again when nobody has it any more."""

    def __init__(self, memory: memoryview, at: int, parts: dict[Run, int], free: list[int]) -> None:
        self._memory, self._at, self._parts, self._free = memory, at, parts, free

    def bytes_of(self, first: int, pieces: int, size: int, check: int) -> memoryview:
        """Of the runs that were asked for, found to be what they should be. Good as long as this is kept."""
        at = self._at + self._parts[first, pieces, size, check]
        return self._memory[at : at + size]

    def __del__(self) -> None:
        self._free.append(self._at)


class Openers:
    """As many processes as `jobs` (none: nothing is opened), for one `with` block; `room` frames can be open at the same time. None of it raises."""

    def __init__(self, vault: bytes, piece_key: bytes, *, jobs: int, room: int) -> None:
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._processes: list[_Process] = []
        self._free = [(jobs + n) * _ROOM for n in reversed(range(room))]
        self._memory = memoryview(b"")
        size = (jobs + room) * _ROOM
        shared = shared_memory(size) if jobs else None
        if shared is None:
            return
        handle, memory = shared
        self._memory = memoryview(memory)
        try:
            for n in range(jobs):
                process = _Process(handle, BEGIN.pack(size, handle, vault, piece_key), n * _ROOM)
                self._processes.append(process)
                self._idle.put(process)
        except OSError:
            return
        finally:
            os.close(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.close()

    def open(self, key: bytes, birth: bytes, number: int, frame: memoryview, runs: Sequence[Run]) -> Opened | None:
        """The frame, of which all of these runs are as they should be; None where the caller must see for himself. Waits for its turn."""
        if not self._processes or len(frame) > _ROOM or len(runs) > _MOST_RUNS:
            return None
        process = self._idle.get()
        try:
            if not process.is_ready():
                return None
            try:
                at = self._free.pop()
            except IndexError:
                return None
            self._memory[process.room : process.room + len(frame)] = frame
            request = REQUEST.pack(process.room, len(frame), at, _ROOM, number, birth, key)
            places = process.ask(request, runs)
        finally:
            self._idle.put(process)
        if places is None:
            self._free.append(at)
            return None
        return Opened(self._memory, at, dict(zip(runs, places, strict=True)), self._free)


class _Process(Helper):
    def __init__(self, handle: int, begin: bytes, room: int) -> None:
        """`room`: where in the memory the frames for it are put."""
        super().__init__("keepwell.vault.opener", handle, begin)
        self.room = room

    def ask(self, request: bytes, runs: Sequence[Run]) -> tuple[int, ...] | None:
        self.send(COUNT.pack(len(runs)) + request + b"".join([RUN.pack(*run) for run in runs]))
        if self.is_over or self.receive(1) != DONE:
            return None
        answer = self.receive(COUNT.size * len(runs))
        return None if self.is_over else tuple(place for (place,) in COUNT.iter_unpack(answer))
