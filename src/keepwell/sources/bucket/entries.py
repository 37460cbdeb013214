"""The stream `objects`: one line of JSON for each object, in the order in which they lie in the stream `content`.

Keys of a line: `name`; `size`, `offset` in the stream `content` and `digest` (BLAKE3 of the content, hex); `modified` (by the
service's clock); `etag` and `version`, where the service gives them; `attributes`, where there are any: `Content-Type` and its
like, and the user's own metadata. A line with `folder: true` and nothing but `name` and `modified` is a marker that consoles
make for a folder: an object of no bytes whose name ends with a slash, which is not part of `name`.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from keepwell.core.clock import UTC
from keepwell.core.errors import Damaged
from keepwell.core.objects import ObjectState
from keepwell.core.streams import Streams
from keepwell.sources.files.entries import FILE
from keepwell.sources.files.entries import Entry as FileEntry

OBJECTS = "objects"
CONTENT = "content"
_LONGEST_LINE = 4 << 20
_HINT = "Run `keepwell check`, and restore an older backup or a copy."


@dataclass(slots=True)
class Entry:
    name: str
    size: int
    offset: int
    digest: str
    modified: dt.datetime
    etag: str | None = None
    version: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    folder: bool = False

    @property
    def state(self) -> ObjectState:
        return ObjectState(self.name, self.size, self.modified, self.etag, self.version)

    def as_file(self) -> FileEntry:
        """As the source `files` would have it: for what the two have in common."""
        mtime = int(self.modified.timestamp() * 1_000_000) * 1000
        return FileEntry(self.name.encode(), FILE, 0o644, 0, 0, mtime, None, None, self.size, self.offset, self.digest)


def encode(entry: Entry) -> bytes:
    line: dict[str, Any] = {"name": entry.name}
    if entry.folder:
        line["folder"] = True
    else:
        line |= {"size": entry.size, "offset": entry.offset, "digest": entry.digest}
    line["modified"] = entry.modified.astimezone(UTC).isoformat()
    if entry.etag is not None:
        line["etag"] = entry.etag
    if entry.version is not None:
        line["version"] = entry.version
    if entry.attributes:
        line["attributes"] = dict(sorted(entry.attributes.items()))
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Entry:
    """Raises Damaged for a line that says anything else than the format above, or whose name leads elsewhere."""
    try:
        found = json.loads(line)
        folder = found.get("folder") is True
        entry = Entry(
            _text(found["name"]),
            0 if folder else _number(found["size"]),
            0 if folder else _number(found["offset"]),
            "" if folder else _text(found["digest"]),
            dt.datetime.fromisoformat(found["modified"]),
            _text(found["etag"]) if "etag" in found else None,
            _text(found["version"]) if "version" in found else None,
            {_text(key): _text(value) for key, value in found.get("attributes", {}).items()},
            folder,
        )
        if entry.modified.tzinfo is None or (not folder and len(entry.digest) != 64):
            raise ValueError("modified or digest")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"the list of objects has a line that is not one: {line[:80]!r}", hint=_HINT) from error
    if "\0" in entry.name or any(part in {"", ".", ".."} for part in entry.name.split("/")):
        raise Damaged(
            f"the list of objects has a name that leads elsewhere: {entry.name!r}",
            hint="The backup was tampered with or written by something else. Nothing of it was written there.",
        )
    return entry


def read_objects(streams: Streams) -> Iterator[Entry]:
    """The entries in order. Raises Damaged."""
    rest = b""
    for block in streams.read(OBJECTS):
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            break
        yield from map(decode, lines)
    if rest:
        raise Damaged("the list of objects is cut short", hint=_HINT)


def identity(entry: Entry) -> int:
    """What must be the same after a restore anywhere: name, content, attributes. Sums of it do not depend on an order."""
    same = [entry.name, entry.size, entry.digest, sorted(entry.attributes.items())]
    return int.from_bytes(blake3(json.dumps(same, separators=(",", ":")).encode()).digest(), "big")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")  # noqa: TRY004 - what is read is wrong, not what is called
    return value


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("no number")
    return value
