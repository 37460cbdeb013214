"""The stream `tree`: one line of JSON for each file, folder and link.

The root comes first (path `.`); the names of a folder follow it in the order of their bytes, each folder
with everything in it before the next name. Keys of a line: `path` (or `path64`, base64, where the bytes are
not UTF-8), `type` (file, folder, symlink, hardlink), `mode` (number), `uid`, `gid`, `user`, `group` (names,
where known), `mtime_ns`, `xattrs` (pairs of base64, where there are any); files and hard links `size`,
`offset` in the stream `content`, `digest` (BLAKE3 of the content, hex); symlinks `target` or `target64`;
hard links `target`: the path of the first name of the same file.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keepwell.core.errors import Damaged
from keepwell.core.streams import Streams

TREE = "tree"
CONTENT = "content"
ROOT = b"."
FILE, FOLDER, SYMLINK, HARDLINK = "file", "folder", "symlink", "hardlink"
_LONGEST_LINE = 4 << 20


@dataclass(slots=True)
class Entry:
    path: bytes
    type: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    user: str | None = None
    group: str | None = None
    size: int = 0
    offset: int = 0
    digest: str = ""
    target: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def has_content(self) -> bool:
        return self.type in (FILE, HARDLINK)


def encode(entry: Entry) -> bytes:
    """The line of the entry, with its end."""
    line: dict[str, Any] = {}
    _put(line, "path", entry.path)
    line |= {"type": entry.type, "mode": entry.mode, "uid": entry.uid, "gid": entry.gid}
    if entry.user is not None:
        line["user"] = entry.user
    if entry.group is not None:
        line["group"] = entry.group
    line["mtime_ns"] = entry.mtime_ns
    if entry.has_content:
        line |= {"size": entry.size, "offset": entry.offset, "digest": entry.digest}
    if entry.type in (SYMLINK, HARDLINK):
        _put(line, "target", entry.target)
    if entry.xattrs:
        line["xattrs"] = [[base64.b64encode(part).decode() for part in pair] for pair in entry.xattrs]
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def identity(entry: Entry) -> bytes:
    """What must be the same after a restore anywhere, by anyone: not owners, attributes, offsets."""
    same = [entry.path.hex(), entry.type, entry.mode, entry.mtime_ns, entry.size, entry.digest, entry.target.hex()]
    return json.dumps(same, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Entry:
    """Raises Damaged for a line that says anything else than the format above, or leads out of the root."""
    try:
        found = json.loads(line)
        entry = Entry(
            path=_get(found, "path"),
            type=found["type"],
            mode=_number(found, "mode"),
            uid=_number(found, "uid"),
            gid=_number(found, "gid"),
            mtime_ns=_number(found, "mtime_ns", least=-(2**63)),
            user=_name(found, "user"),
            group=_name(found, "group"),
        )
        if entry.type not in (FILE, FOLDER, SYMLINK, HARDLINK):
            raise ValueError("type")
        if entry.has_content:
            entry.size, entry.offset = _number(found, "size"), _number(found, "offset")
            entry.digest = found["digest"]
            if not isinstance(entry.digest, str) or len(entry.digest) != 64:
                raise ValueError("digest")
        if entry.type in (SYMLINK, HARDLINK):
            entry.target = _get(found, "target")
        entry.xattrs = tuple(
            (base64.b64decode(name, validate=True), base64.b64decode(value, validate=True))
            for name, value in found.get("xattrs", [])
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(
            f"the list of files has a line that is not one: {line[:80]!r}",
            hint="Run `keepwell check`, and restore an older backup or a copy.",
        ) from error
    _require_inside(entry.path, entry.path)
    if entry.type == HARDLINK:
        _require_inside(entry.target, entry.path)
    return entry


def read_tree(streams: Streams) -> Iterator[Entry]:
    """The entries in order; an entry never comes before its folder, nor twice. Raises Damaged."""
    rest = b""
    order = _Order()
    for block in streams.read(TREE):
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise _cut_short()
        for line in lines:
            entry = decode(line)
            order.require(entry)
            yield entry
    if rest or not order.begun:
        raise _cut_short()


def parts(path: bytes) -> list[bytes]:
    """The names from the root down; none for the root itself."""
    return [] if path == ROOT else path.split(b"/")


def show(path: bytes) -> str:
    """The path for a message: readable, whatever its bytes."""
    return path.decode("utf-8", "backslashreplace")


class _Order:
    """A folder's names ascend, and only a folder has names below it: so nothing is written through a link."""

    def __init__(self) -> None:
        self.begun = False
        self._last: list[bytes] = []
        self._last_is_folder = True

    def require(self, entry: Entry) -> None:
        here = parts(entry.path)
        if not self.begun:
            right = not here and entry.type == FOLDER
        elif len(here) == len(self._last) + 1:
            right = self._last_is_folder and here[:-1] == self._last
        else:
            depth = len(here) - 1
            right = 0 <= depth < len(self._last) and here[:-1] == self._last[:depth] and here[depth] > self._last[depth]
        if not right:
            raise Damaged(
                f"the list of files has {show(entry.path)} in the wrong place",
                hint="Run `keepwell check`, and restore an older backup or a copy.",
            )
        self.begun = True
        self._last, self._last_is_folder = here, entry.type == FOLDER


def _require_inside(path: bytes, named: bytes) -> None:
    names = path.split(b"/")
    if path != ROOT and (b"\0" in path or any(name in (b"", b".", b"..") for name in names)):
        raise Damaged(
            f"the list of files has a path that leads elsewhere: {show(named)!r}",
            hint="The backup was tampered with or written by something else. Nothing of it was written there.",
        )


def _cut_short() -> Damaged:
    return Damaged(
        "the list of files is cut short", hint="Run `keepwell check`, and restore an older backup or a copy."
    )


def _put(line: dict[str, Any], key: str, value: bytes) -> None:
    try:
        line[key] = value.decode()
    except UnicodeDecodeError:
        line[f"{key}64"] = base64.b64encode(value).decode()


def _get(line: dict[str, Any], key: str) -> bytes:
    if key in line:
        text: str = line[key]
        return text.encode()
    return base64.b64decode(line[f"{key}64"], validate=True)


def _number(line: dict[str, Any], key: str, least: int = 0) -> int:
    value = line[key]
    if type(value) is not int or not least <= value < 2**63:
        raise ValueError(key)
    return value


def _name(line: dict[str, Any], key: str) -> str | None:
    value = line.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(key)
    return value
