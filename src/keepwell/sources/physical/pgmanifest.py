"""The server's `backup_manifest`: kept as it was sent, or less some files, which it then sends whole the next time. Pure.

Source: PostgreSQL's documentation, "Backup Manifest Format": JSON, one file a line, a SHA-256 over all before the last line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

_SUM = b'"Manifest-Checksum"'
_FILES = b'"Files": ['


def without(manifest: bytes, paths: Iterable[str]) -> bytes:
    """The manifest without these files. Raises ValueError where it is not one as servers write it."""
    gone = {path.encode("utf-8", "surrogateescape") for path in paths}
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


def _path(row: bytes) -> bytes:
    match json.loads(row):
        case {"Encoded-Path": str(encoded)}:
            return bytes.fromhex(encoded)
        case {"Path": str(path)}:
            return path.encode("utf-8", "surrogatepass")
    raise ValueError("a line of the backup manifest is not that of a file")
