"""The ids of pages from a process beside this one, which finds them out while this one looks up and stores those before.

Each page that is hashed hands the interpreter from thread to thread, and half of what a backup's own thread did was that
(docs/why/speed.md). Only for speed: what the process does not answer, the caller finds out himself.
"""

from __future__ import annotations

import os
import threading
from collections import deque

import numpy as np
import numpy.typing as npt

from keepwell.vault.helper import Helper, shared_memory
from keepwell.vault.namer import BEGIN, REQUEST
from keepwell.vault.piece import ID_SIZE, PAGE, identify

ROOM = 4 << 20
"""Bytes that are asked for together: to wake a process takes as long as to hash some pages."""
_ROOMS = 8
"""In memory: those that are asked for, and those that wait to be compressed."""
_WORTH_A_PROCESS = 64 << 20
"""Bytes of pages after which it is started; until then the backup may as well be over."""


class _Room(np.ndarray[tuple[int], np.dtype[np.uint8]]):
    """A part of the memory; it is used again when nobody has a view of it any more."""

    at: int
    free: list[int]

    def __del__(self) -> None:
        if hasattr(self, "free"):  # not what NumPy makes of it
            self.free.append(self.at)


class Named:
    """Pages whose ids were asked for."""

    def __init__(self, pages: memoryview) -> None:
        self.pages = pages
        self.answer: bytes | None = None


class Naming:
    """Of one backup; its streams share it. None of it raises."""

    def __init__(self, piece_key: bytes, *, on: bool) -> None:
        self._key, self._on = piece_key, on
        self._lock = threading.Lock()
        self._seen = 0
        self._process: Helper | None = None
        self._memory = np.empty(0, np.uint8)
        self._free: list[int] = []
        self._asked: deque[Named] = deque()

    def room(self) -> npt.NDArray[np.uint8] | None:
        """Memory for ROOM bytes of pages to ask for; None where the caller must see for himself."""
        with self._lock:
            if not self._on or self._seen < _WORTH_A_PROCESS:
                return None
            if self._process is None:
                self._start()
            if self._process is None or not self._process.is_ready() or not self._free:
                return None
            at = self._free.pop()
            room = self._memory[at : at + ROOM].view(_Room)
            room.at, room.free = at, self._free
        return room

    def saw(self, size: int) -> None:
        """So many bytes of pages were named by someone else."""
        with self._lock:
            self._seen += size

    def ask(self, room: npt.NDArray[np.uint8], size: int) -> Named:
        """So many bytes in the room, whole pages."""
        assert isinstance(room, _Room)
        named = Named(room[:size].data)
        with self._lock:
            assert self._process is not None
            self._process.send(REQUEST.pack(room.at, size // PAGE))
            self._asked.append(named)
        return named

    def ids(self, named: Named) -> list[bytes]:
        """In the order in which they were asked for, or any other."""
        pages = len(named.pages) // PAGE
        with self._lock:
            while named.answer is None:
                first = self._asked.popleft()
                assert self._process is not None
                first.answer = self._process.receive(len(first.pages) // PAGE * ID_SIZE)
        if len(named.answer) < pages * ID_SIZE:  # it has ended
            return identify(self._key, named.pages, [PAGE] * pages)
        return [named.answer[at : at + ID_SIZE] for at in range(0, pages * ID_SIZE, ID_SIZE)]

    def close(self) -> None:
        if self._process is not None:
            self._process.close()

    def _start(self) -> None:
        self._on = False  # once is enough
        shared = shared_memory(_ROOMS * ROOM)
        if shared is None:
            return
        handle, memory = shared
        try:
            self._process = Helper("keepwell.vault.namer", handle, BEGIN.pack(len(memory), handle, self._key))
        except OSError:
            return
        finally:
            os.close(handle)
        self._memory = np.frombuffer(memory, np.uint8)
        self._free += [n * ROOM for n in range(_ROOMS)]
        self._on = True
