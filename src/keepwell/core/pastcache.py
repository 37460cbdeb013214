"""Writing large files past the page cache: to the disk at once, with hardly any processor time.

What must be on the disk before a command ends would only pass through the cache, at the cost of a copy and of pages that a server
on the same machine would rather keep (docs/why/speed.md).
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Sequence

from keepwell.core.streams import Buffer

AT_ONCE = 1 << 20
"""Bytes of one write."""
UNIT = 4096
"""Places and sizes of such writes are multiples of this, and so is the address in memory."""
FLAG = getattr(os, "O_DIRECT", 0)
"""For `os.open`; 0 where the system does not know it."""
REFUSALS = (errno.EINVAL, errno.EOPNOTSUPP)
"""What file systems answer that cannot do it."""
_local = threading.local()


def aligned(data: Buffer) -> memoryview:
    """The same bytes, at most AT_ONCE of them, where such a write can take them; good until this thread's next call."""
    import numpy as np  # here, since it takes a tenth of a second

    given = np.frombuffer(data, np.uint8)
    if given.ctypes.data % UNIT == 0:
        return memoryview(data).cast("B")
    if not hasattr(_local, "room"):
        _local.room = np.frombuffer(mmap.mmap(-1, AT_ONCE), np.uint8)
    room = _local.room[: len(given)]
    room[:] = given  # by NumPy, since it lets other threads run meanwhile
    return memoryview(room)


def gathered(parts: Sequence[Buffer]) -> memoryview:
    """All of them one after the other, where such a write can take them; good until this thread's next call."""
    import numpy as np

    size = sum(map(len, parts))
    if not hasattr(_local, "gathered") or len(_local.gathered) < size:
        _local.gathered = np.frombuffer(mmap.mmap(-1, -(-size // AT_ONCE) * AT_ONCE), np.uint8)
    room = _local.gathered[:size]
    np.concatenate([np.frombuffer(part, np.uint8) for part in parts], out=room)
    return memoryview(room)


def write_start(handle: int, content: memoryview) -> int:
    """Writes whole units from the beginning of the content to the current place in the file; returns how many bytes.

    What remains (the end of the content; all of it where the file system cannot do it) is left to an ordinary write. Raises OSError.
    """
    import fcntl  # not on every system; where FLAG is 0 nobody gets here

    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    at, end = 0, len(content) // UNIT * UNIT
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags | FLAG)
        while at < end and at % UNIT == 0:
            at += os.write(handle, aligned(content[at : min(end, at + AT_ONCE)]))
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
    finally:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags)
    return at
