"""Zstandard: the standard library's from Python 3.14, its backport before."""

from __future__ import annotations

import sys
import threading

from keepwell.core.streams import Buffer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_local = threading.local()

OWN = 0
"""The level that stands for keepwell's own parameters."""

# One table, small enough for a core's innermost caches, and matches of at least six bytes. On database
# text in frames of 512 KiB that takes two thirds of the time of zstd's level 3, for 1 % more bytes (docs/why/speed.md).
_C = zstd.CompressionParameter
_OWN: dict[int, int] = {
    _C.compression_level: 3,
    _C.strategy: int(zstd.Strategy.fast),
    _C.window_log: 19,
    _C.hash_log: 15,
    _C.min_match: 6,
    _C.target_length: 0,
}


def compress(data: Buffer, level: int) -> bytes:
    """One frame; `level` is OWN, or 1 to 19 as zstd means them. Keeps a context per thread and level: making one costs more than a small frame does."""
    contexts: dict[int, zstd.ZstdCompressor] = _local.__dict__.setdefault("contexts", {})
    if level not in contexts:
        contexts[level] = zstd.ZstdCompressor(options=_OWN) if level == OWN else zstd.ZstdCompressor(level=level)
    return contexts[level].compress(data, mode=zstd.ZstdCompressor.FLUSH_FRAME)


def decompress(data: Buffer, size: int | None = None) -> bytes:
    """One frame; with `size` it must give exactly that many bytes, and no more are ever made.

    Raises ValueError.
    """
    try:
        if size is None:
            return zstd.decompress(data)
        context = zstd.ZstdDecompressor()
        plain = context.decompress(data, size + 1)
    except zstd.ZstdError as error:
        raise ValueError(f"zstd: {error}") from None
    if len(plain) != size or not context.eof:
        raise ValueError(f"zstd: {len(plain)} bytes where {size} were announced")
    return plain
