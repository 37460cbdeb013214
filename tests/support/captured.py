"""What a physical capture put into its streams, as files again; and how clusters are compared."""

import os
import re
from pathlib import Path

from keepwell.core.streams import Context, MemoryStreams
from keepwell.sources import physical
from keepwell.sources.physical.entries import STREAM, decode

VOLATILE = re.compile(
    r"pg_wal/.*|backup_label(\.old)?|tablespace_map|backup_manifest|global/pg_control|postmaster\.(pid|opts)|"
    r"(.*/)?pg_internal\.init.*|pg_(dynshmem|notify|serial|snapshots|stat_tmp|subtrans|replslot)/.*|(.*/)?pgsql_tmp.*|"
    r"current_logfiles|pg_logical/replorigin_checkpoint"
)
"""Of two backups that see the same pages these may differ, or are left out of backups."""


def files_of(streams):
    """`{path: (kind, mode, bytes or target)}`."""
    entries = list(decode(streams.read(STREAM)))
    paths = [entry.path for entry in entries]
    assert paths == sorted(set(paths))
    return {e.path: (e.kind, e.mode, _content(streams, e)) for e in entries}


def _content(streams, entry):
    if entry.kind != "file":
        return entry.target
    return bytes(streams.data[entry.stream][entry.at : entry.at + entry.size]) if entry.size else b""


def files_in(folder: Path):
    """The same of a data directory; tablespaces are followed."""
    found = {}
    for path in _walk(folder, ""):
        real = folder / path
        if real.is_symlink() and path.startswith("pg_tblspc/"):
            found[path] = ("link", 0o777, str(real.readlink()))
        elif real.is_dir():
            found[path] = ("dir", real.stat().st_mode & 0o7777, "")
        elif real.is_file():
            found[path] = ("file", real.stat().st_mode & 0o7777, real.read_bytes())
    return found


def _walk(folder, prefix):
    for name in os.listdir(folder / prefix):
        path = f"{prefix}{name}"
        yield path
        if (folder / path).is_dir():
            yield from _walk(folder, f"{path}/")


def differences(left, right, *, ignore=()):
    """Texts: what is not the same in two such dicts, besides what always differs. Targets of links are not compared."""
    found = []
    for path in sorted(left.keys() | right.keys()):
        if VOLATILE.fullmatch(path) or path in ignore:
            continue
        if path not in left or path not in right:
            found.append(f"{path} is only {'right' if path in right else 'left'}")
        elif left[path][:2] != right[path][:2]:
            found.append(f"{path}: {left[path][:2]} and {right[path][:2]}")
        elif left[path][0] == "file" and left[path][2] != right[path][2]:
            a, b = left[path][2], right[path][2]
            pages = [n for n in range(max(len(a), len(b)) // 8192) if a[n * 8192 :][:8192] != b[n * 8192 :][:8192]]
            found.append(f"{path}: {len(a)} and {len(b)} bytes; pages {pages[:20]} differ")
    return found


def capture(server, *, cache=None, after=None, context=None, **spec):
    """Facts and streams, from the server unless told otherwise. `after`: the streams of an earlier backup of the same vault."""
    spec = {"read_from": "server", **spec}
    streams = MemoryStreams()
    if after is not None:
        streams.pieces = after.pieces
    url = spec.pop("url", None) or server.url()
    facts = physical.capture(physical.Spec(url, **spec), streams, context or Context(cache=cache))
    return facts, streams
