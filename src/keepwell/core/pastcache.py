"""Writing large files past the page cache: to the disk at once, with hardly any processor time.

What must be on the disk before a command ends would only pass through the cache, at the cost of a copy and of pages that a server
on the same machine would rather keep (docs/why/speed.md).
"""

from __future__ import annotations

import errno
import os

from keepwell.core.buffers import AT_ONCE, UNIT, aligned

FLAG = getattr(os, "O_DIRECT", 0)
"""For `os.open`; 0 where the system does not know it. Places and sizes of such writes are multiples of UNIT."""
REFUSALS = (errno.EINVAL, errno.EOPNOTSUPP)
"""What file systems answer that cannot do it."""


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
