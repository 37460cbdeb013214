"""The server's `backup_manifest`: kept as it was sent, or less some files, which it then sends whole the next time, or
written where the server had no part in the backup. Pure.

Source: PostgreSQL's documentation, "Backup Manifest Format": JSON, one file a line, a SHA-256 over all before the last line.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable

from keepwell.core.wal import parse_lsn, show_lsn
from keepwell.sources.physical.incremental import PREFIX

_SUM = b'"Manifest-Checksum"'
_FILES = b'"Files": ['
_RANGES = b'"WAL-Ranges":'


def without(manifest: bytes, paths: Iterable[str]) -> bytes:
    """The manifest without these files, of which it may have only what changed. Raises ValueError where it is not one as servers
    write it.
    """
    gone = {path.encode("utf-8", "surrogateescape") for path in paths}
    gone |= {
        folder + slash + PREFIX.encode() + name for folder, slash, name in (path.rpartition(b"/") for path in gone)
    }
    lines = manifest.splitlines(keepends=True)
    first = next((n for n, line in enumerate(lines) if line.startswith(_FILES)), None)
    if first is None:
        raise ValueError("the backup manifest has no list of files")
    last = next((n for n in range(first + 1, len(lines)) if lines[n].startswith(b"]")), None)
    end = next((n for n in range(first, len(lines)) if lines[n].startswith(_SUM)), None)
    if last is None or end is None or end < last:
        raise ValueError("the backup manifest is cut short")
    rows = [line.strip().removesuffix(b",") for line in (lines[first][len(_FILES) :], *lines[first + 1 : last])]
    kept = [row for row in rows if row and _path(row) not in gone]
    head, tail = b"".join(lines[:first]), b"".join(lines[last:end])
    body = head + _FILES + b"\n" + b",\n".join(kept) + b"\n" + tail
    return body + _SUM + b': "' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def write(system: str, timeline: int, start: int, stop: int, files: Iterable[tuple[str, int]]) -> bytes:
    """Of a backup that was read from the files: a server then knows which files there were (path, size), and since when (the
    positions in the log) it has to look for changes. Version 2, which 17 and later read.
    """
    rows = [json.dumps(_named(path) | {"Size": size}).encode() for path, size in files]
    place = json.dumps({"Timeline": timeline, "Start-LSN": show_lsn(start), "End-LSN": show_lsn(stop)}).encode()
    body = (
        b'{ "PostgreSQL-Backup-Manifest-Version": 2,\n"System-Identifier": ' + system.encode() + b",\n" + _FILES + b"\n"
    )
    body += b",\n".join(rows) + b'\n],\n"WAL-Ranges": [\n' + place + b"\n],\n"
    return body + _SUM + b': "' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def ranges(manifest: bytes) -> list[tuple[int, int, int]]:
    """Timeline, beginning and end of each part of the log that the backup needs. Raises ValueError."""
    at, end = manifest.rfind(_RANGES), manifest.rfind(_SUM)
    if at < 0 or end < at:
        raise ValueError("the backup manifest does not name the log that it needs")
    found = json.loads(manifest[at + len(_RANGES) : end].strip().rstrip(b",").rstrip())
    try:
        return [(int(one["Timeline"]), parse_lsn(one["Start-LSN"]), parse_lsn(one["End-LSN"])) for one in found]
    except (KeyError, TypeError) as error:
        raise ValueError("the backup manifest does not name the log as servers do") from error


def _named(path: str) -> dict[str, str | int]:
    raw = os.fsencode(path)
    try:
        return {"Path": raw.decode()}
    except UnicodeDecodeError:
        return {"Encoded-Path": raw.hex()}


def _path(row: bytes) -> bytes:
    match json.loads(row):
        case {"Encoded-Path": str(encoded)}:
            return bytes.fromhex(encoded)
        case {"Path": str(path)}:
            return path.encode("utf-8", "surrogatepass")
    raise ValueError("a line of the backup manifest is not that of a file")
