"""A process that finds out the ids of pages (started by `naming`).

It shares memory with the process that wants them, and is told over a pipe where the pages lie: one request, one answer, until the
pipe ends. It has the key that names pieces, and nothing else.
"""

from __future__ import annotations

import mmap
import signal
import struct
import sys

from keepwell.vault.helper import READY
from keepwell.vault.piece import PAGE, identify

BEGIN = struct.Struct("<QI32s")
"""Size and handle of the memory, the key that names pieces."""
REQUEST = struct.Struct("<QI")
"""Where in the memory the pages begin, and how many there are."""


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this is stopped, and this ends with it
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    size, handle, key = BEGIN.unpack(source.read(BEGIN.size))
    memory = memoryview(mmap.mmap(handle, size))
    answer = READY
    while True:
        sink.write(answer)
        sink.flush()
        if len(request := source.read(REQUEST.size)) < REQUEST.size:
            return
        at, pages = REQUEST.unpack(request)
        answer = b"".join(identify(key, memory[at : at + pages * PAGE], [PAGE] * pages))
