"""A process beside this one that shares memory with it, and is asked over a pipe. Only ever for speed: none of it raises.

What it runs is a `main()` of this package that answers READY when it has started (`opener`, `namer`).
"""

from __future__ import annotations

import mmap
import os
import select
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import IO

READY = b"r"
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(32 << 20)}
"""For glibc: to give the memory of each frame back to the system, and to be given it anew, took as long as to decode it."""


def shared_memory(size: int) -> tuple[int, mmap.mmap] | None:
    """Memory and the handle by which processes get at it, to be closed when they are started; None where there is none to be had."""
    if not sys.executable:
        return None
    try:
        handle = os.memfd_create("keepwell", os.MFD_CLOEXEC)
    except (AttributeError, OSError):  # no Linux
        return None
    try:
        os.ftruncate(handle, size)
        return handle, mmap.mmap(handle, size)
    except OSError:
        os.close(handle)
        return None


class Helper:
    """One process."""

    def __init__(self, module: str, handle: int, begin: bytes) -> None:
        """`begin`: the first that it is told. Raises OSError where it cannot be started."""
        self.is_over = False
        """It ended, and answers nothing any more."""
        self._ready = False
        # -P: what lies in the current folder is nobody's program.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {module} import main; main()"],
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
        self.send(begin)

    def is_ready(self) -> bool:
        """It takes a moment to start; until then others do its work."""
        if not self._ready and not self.is_over and select.select([self._from], [], [], 0)[0]:
            self._ready = self.receive(1) == READY
        return self._ready and not self.is_over

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._to.write(view) or 0 :]
        except OSError:
            self.is_over = True

    def receive(self, count: int) -> bytes:
        """Less only where the process has ended."""
        found = b""
        while len(found) < count:
            try:
                some = self._from.read(count - len(found))
            except OSError:
                some = b""
            if not some:
                self.is_over = True
                break
            found += some
        return found

    def close(self) -> None:
        self.is_over = True
        self._to.close()
        self._from.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
