"""Bytes put together and in place without holding up other threads: what bytes.join does keeps the interpreter to itself."""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Sequence

from keepwell.core.streams import Buffer

AT_ONCE = 1 << 20
UNIT = 4096
"""Where a page of memory begins: what is written past the page cache must."""
_local = threading.local()


def anonymous(size: int) -> mmap.mmap:
    """Memory of zeros that takes place only where it is written, from the beginning of a page; in large pages where the system has them,
    since one by one it takes as long to make them as to fill them.
    """
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def aligned(data: Buffer) -> memoryview:
    """The same bytes, at most AT_ONCE of them, from the beginning of a page of memory; good until this thread's next call."""
    import numpy as np  # here, since it takes a tenth of a second

    given = np.frombuffer(data, np.uint8)
    if given.ctypes.data % UNIT == 0:
        return memoryview(data).cast("B")
    if not hasattr(_local, "room"):
        _local.room = np.frombuffer(mmap.mmap(-1, AT_ONCE), np.uint8)
    room = _local.room[: len(given)]
    room[:] = given  # by NumPy, since it lets other threads run meanwhile
    return memoryview(room)


def joined(parts: Sequence[Buffer]) -> memoryview:
    """All of them one after the other, in memory of their own."""
    import numpy as np

    return np.concatenate([np.frombuffer(part, np.uint8) for part in parts] or [np.empty(0, np.uint8)]).data


def gathered(parts: Sequence[Buffer]) -> memoryview:
    """All of them one after the other, from the beginning of a page of memory; good until this thread's next call."""
    import numpy as np

    size = sum(map(len, parts))
    if not hasattr(_local, "gathered") or len(_local.gathered) < size:
        _local.gathered = np.frombuffer(mmap.mmap(-1, -(-size // AT_ONCE) * AT_ONCE), np.uint8)
    room = _local.gathered[:size]
    np.concatenate([np.frombuffer(part, np.uint8) for part in parts], out=room)
    return memoryview(room)
