"""Frames opened by processes beside this one, into memory that all of them share.

Of what a restore does, decoding and checking takes most of the processors' time. A second thread makes that a quarter
faster: pages are small, and each one that is hashed hands the interpreter from thread to thread (docs/why/speed.md).

All of it is only for speed: whatever a process cannot or will not do, the caller does itself.
"""

from __future__ import annotations

import mmap
import os
import queue
import select
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

from keepwell.vault.frame import FRAME_SIZE
from keepwell.vault.opener import BEGIN, COUNT, DONE, READY, REQUEST, RUN

if TYPE_CHECKING:
    from typing import IO

Run: TypeAlias = tuple[int, int, int, int]
"""First piece, pieces, bytes and check of an extent."""
_ROOM = FRAME_SIZE + (128 << 10)
"""For a frame, stored or opened: the last piece may be longer than what was left of it."""
_MOST_RUNS = 1024
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(32 << 20)}
"""For glibc: to give the memory of each frame back to the system, and to be given it anew, took as long as to decode it."""
_PROGRAM = "from keepwell.vault.opener import main; main()"


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
        if not jobs or not sys.executable:
            return
        size = (jobs + room) * _ROOM
        try:
            handle = os.memfd_create("keepwell", os.MFD_CLOEXEC)
        except (AttributeError, OSError):  # no Linux
            return
        try:
            os.ftruncate(handle, size)
            self._memory = memoryview(mmap.mmap(handle, size))
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


class _Process:
    def __init__(self, handle: int, begin: bytes, room: int) -> None:
        """`room`: where in the memory the frames for it are put."""
        self.room = room
        self._ready = self._over = False
        # -P: what lies in the current folder is nobody's program.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[handle],
            env={**os.environ, **_KEEP_MEMORY},
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to: IO[bytes] = self._process.stdin
        self._from: IO[bytes] = self._process.stdout
        self._send(begin)

    def is_ready(self) -> bool:
        """It takes a moment to start; until then others do its work."""
        if not self._ready and not self._over and select.select([self._from], [], [], 0)[0]:
            self._ready = self._receive(1) == READY
        return self._ready and not self._over

    def ask(self, request: bytes, runs: Sequence[Run]) -> tuple[int, ...] | None:
        self._send(COUNT.pack(len(runs)) + request + b"".join([RUN.pack(*run) for run in runs]))
        if self._over or self._receive(1) != DONE:
            return None
        answer = self._receive(COUNT.size * len(runs))
        return None if self._over else tuple(place for (place,) in COUNT.iter_unpack(answer))

    def close(self) -> None:
        self._over = True
        self._to.close()
        self._from.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._to.write(view) or 0 :]
        except OSError:
            self._over = True

    def _receive(self, count: int) -> bytes:
        """Less only where the process has ended."""
        found = b""
        while len(found) < count:
            try:
                some = self._from.read(count - len(found))
            except OSError:
                some = b""
            if not some:
                self._over = True
                break
            found += some
        return found
