"""A process that opens frames: decrypts, decodes, and checks what is wanted of each (started by `openers`).

It shares memory with the process that wants them, and is told over a pipe what to do: one request, one answer, until the pipe ends.
It has the keys of single packs and the one that names pieces, and neither store nor policy.
"""

from __future__ import annotations

import functools
import mmap
import signal
import struct
import sys
from typing import BinaryIO

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keepwell.core.errors import Damaged
from keepwell.vault.frame import open_frame, starts
from keepwell.vault.helper import READY
from keepwell.vault.piece import check_of, identify

BEGIN = struct.Struct("<QI16s32s")
"""Size and handle of the memory, the vault's id, the key that names pieces."""
REQUEST = struct.Struct("<QIQII16s32s")
"""Where the frame lies in the memory and its length, where its bytes are to go and how many there is room for; its number, the birth
of its pack, and that pack's key. Behind it the runs that are wanted."""
RUN = struct.Struct("<IIIQ")
"""First piece, pieces, bytes, check, as in an extent."""
COUNT = struct.Struct("<I")
DONE, REFUSED = b"d", b"n"
"""A refusal gives no reason: who asked opens the frame himself then, and finds it."""


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this is stopped, and this ends with it
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    size, handle, vault, key = BEGIN.unpack(source.read(BEGIN.size))
    memory = memoryview(mmap.mmap(handle, size))
    _say(sink, READY)
    while head := source.read(COUNT.size):
        request = source.read(REQUEST.size)
        runs = [RUN.unpack(source.read(RUN.size)) for _ in range(COUNT.unpack(head)[0])]
        try:
            places = _open(memory, request, runs, vault, key)
        except (Damaged, ValueError, IndexError):
            _say(sink, REFUSED)
        else:
            _say(sink, DONE + struct.pack(f"<{len(places)}I", *places))


def _open(memory: memoryview, request: bytes, runs: list[tuple[int, ...]], vault: bytes, piece_key: bytes) -> list[int]:
    """Puts what is wanted of the frame into the memory, each byte at its place in the frame; where in them each run begins. Raises Damaged, ValueError, IndexError."""
    at, length, to, room, number, birth, key = REQUEST.unpack(request)
    lengths, plain = open_frame(_box(key), vault, birth, number, memory[at : at + length], what="")
    if len(plain) > room:
        raise ValueError("the frame is larger than the room for it")
    places = starts(lengths)
    for first, pieces, size, check in runs:
        part = plain[places[first] : places[first + pieces]]
        ids = identify(piece_key, part, lengths[first : first + pieces])
        if len(part) != size or check_of(piece_key, b"".join(ids)) != check:
            raise ValueError("these are other pieces")
        memory[to + places[first] : to + places[first] + size] = part
    return [places[first] for first, *_ in runs]


_box = functools.lru_cache(64)(AESGCM)


def _say(sink: BinaryIO, answer: bytes) -> None:
    sink.write(answer)
    sink.flush()
