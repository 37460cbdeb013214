"""A copy that needs no keepwell: `gunzip -c database.sql.gz | psql` restores it."""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from keepwell.core.errors import Interrupted
from keepwell.core.newfile import new_file
from keepwell.core.streams import Context, Facts, Streams
from keepwell.sources.base import Exported
from keepwell.sources.postgres.dump import GLOBALS, SCHEMA

NAME = "database.sql.gz"
_CHUNK = 4 << 20
_LEVEL = 6
_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
"""A gzip header without time, name and system, so that the same backup gives the same bytes."""


def export(facts: Facts, streams: Streams, folder: Path, context: Context) -> Exported:
    """Write `database.sql.gz` into the folder: the script that pg_dump writes. The same bytes every time.

    Roles are not in it: they belong to the server (the stream `globals` of the backup has them).
    Raises TargetNotEmpty, Damaged, SourceError.
    """
    path = folder / NAME
    names = [name for name in facts["streams"] if name not in (GLOBALS, SCHEMA)]
    total = sum(streams.size(name) for name in names)
    task = f"{facts['database']}: export"
    context.progress.begin(task, total)
    sha256 = hashlib.sha256()
    with new_file(path) as file, ThreadPoolExecutor(max(context.jobs, 1), thread_name_prefix="gzip") as pool:
        text = itertools.chain.from_iterable(streams.read(name) for name in names)
        waiting: deque[tuple[int, Future[bytes]]] = deque()

        def write_first() -> None:
            size, packed = waiting.popleft()
            data = packed.result()
            sha256.update(data)
            file.write(data)
            context.progress.advance(task, size)

        for chunk in _chunks(text):
            if context.cancelled():
                raise Interrupted("the export was interrupted", hint="Nothing was written; start it again.")
            waiting.append((len(chunk), pool.submit(member, chunk)))
            if len(waiting) > 2 * context.jobs:
                write_first()
        while waiting:
            write_first()
    context.progress.end(task)
    return Exported(path, path.stat().st_size, sha256.hexdigest(), facts)


def member(chunk: bytes) -> bytes:
    """One gzip member; gunzip reads several after one another as one text."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(chunk) + packer.flush()
    return b"".join(
        (_HEADER, body, zlib.crc32(chunk).to_bytes(4, "little"), (len(chunk) % 2**32).to_bytes(4, "little"))
    )


def _chunks(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of one size, whatever sizes they came in. At least one piece."""
    held: list[bytes] = []
    size = 0
    first = True
    for block in blocks:
        view = memoryview(block)
        while view:
            part = view[: _CHUNK - size]
            held.append(bytes(part))
            size += len(part)
            view = view[len(part) :]
            if size == _CHUNK:
                yield b"".join(held)
                held, size, first = [], 0, False
    if size or first:
        yield b"".join(held)
