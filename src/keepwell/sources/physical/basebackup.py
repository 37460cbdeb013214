"""BASE_BACKUP: asking for it, and taking its messages apart.

Source: PostgreSQL's documentation, "Streaming Replication Protocol", BASE_BACKUP; before 15 each archive was a copy of its own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from keepwell.core.errors import Interrupted, SourceError
from keepwell.core.wal import parse_lsn
from keepwell.sources.physical.files import RELATION, Files
from keepwell.sources.physical.replication import COPY, Replication, Row, ServerError
from keepwell.sources.physical.spec import Spec

# In whatever language: the file, its block, then two checksums in hexadecimal.
_DAMAGED = re.compile(rf"({RELATION})\b\D+(\d+)\b.*\b[0-9A-F]{{1,4}}\b.*\b[0-9A-F]{{1,4}}\b", re.ASCII)
_DATA_CORRUPTED = "XX001"
_AT_ONCE = 1 << 20
"""Bytes of an archive that are taken apart together."""


@dataclass
class BaseBackup:
    """What the server said of the backup."""

    start: int = 0
    timeline: int = 0
    stop: int = 0
    tablespaces: dict[str, str] = field(default_factory=dict)
    """Place by oid."""
    size: int = 0
    """Bytes, as the server estimated them."""
    manifest: bytes = b""
    damaged: list[tuple[str, int]] = field(default_factory=list)
    """Path and block of pages whose checksum is wrong; of each file the server names the first few."""
    warnings: list[str] = field(default_factory=list)
    """What else it warned of."""
    corrupted: bool = False
    """The server ended the backup with an error because of them."""


def command(version: int, spec: Spec, *, manifest: bool, incremental: bool) -> str:
    if version < 150000:
        fast = "FAST " if spec.checkpoint == "fast" else ""
        return f"BASE_BACKUP LABEL 'keepwell' PROGRESS {fast}WAL NOWAIT TABLESPACE_MAP MANIFEST 'no'"
    # The map is asked for only because links with long targets do not fit into the tar stream.
    options = ["LABEL 'keepwell'", "PROGRESS", f"CHECKPOINT '{spec.checkpoint}'", "WAL", "WAIT false", "TABLESPACE_MAP"]
    # Without checksums: TCP has its own, pages theirs, and ours are keyed and made on the way.
    options += ["MANIFEST 'yes'", "MANIFEST_CHECKSUMS 'NONE'"] if manifest else ["MANIFEST 'no'"]
    options += ["INCREMENTAL"] if incremental else []
    return f"BASE_BACKUP ({', '.join(options)})"


def receive(
    link: Replication,
    text: str,
    files: Callable[[BaseBackup], Files],
    spec: Spec,
    *,
    begun: Callable[[BaseBackup], None],
    advance: Callable[[int], None],
    cancelled: Callable[[], bool],
) -> tuple[BaseBackup, Files]:
    """Runs the command. `files` is called when the server has agreed, so that a refusal leaves no stream behind.

    Raises SourceError, ServerError where the server refuses, Interrupted.
    """
    found = BaseBackup()
    taker: _Taker | None = None
    try:
        for answer in link.copy_out(text, on_notice=functools.partial(_notice, found)):
            if isinstance(answer, memoryview):
                assert taker is not None
                taker.message(answer)
            elif answer is COPY:
                assert taker is not None
                taker.copy()
            elif not found.start:
                found.start, found.timeline = _position(answer)
            elif taker is None:
                found.tablespaces = {str(r["spcoid"]): str(r["spclocation"]) for r in answer if r["spcoid"]}
                found.size = sum(int(r["size"] or 0) for r in answer) * 1024
                begun(found)
                archives = [str(row["spcoid"] or "") for row in answer]
                taker = _Taker(files(found), archives, link.server_version, advance)
                for oid, place in found.tablespaces.items():
                    taker.files.link(oid, place)
            elif answer:
                found.stop, found.timeline = _position(answer)
            if cancelled():
                raise Interrupted("the backup was interrupted", hint="Nothing was changed; start it again.")
    except ServerError as error:
        if error.state != _DATA_CORRUPTED or not found.stop:
            raise
        # The server says so when everything has been sent; whether that is a failure is the policy's to say.
        found.corrupted = True
        if spec.on_damaged_page == "fail":
            raise damaged_pages(link.address.place, found.damaged, found.warnings) from error
    if taker is None or not found.stop:
        raise SourceError(f"{link.address.place}: the base backup ended before its end", hint="Try again.")
    taker.close()
    found.manifest = taker.manifest
    return found, taker.files


def damaged_pages(place: str, damaged: list[tuple[str, int]], warnings: list[str]) -> SourceError:
    """The error for pages by path and block; where the server named none, what it warned of."""
    files = {path: [b for p, b in damaged if p == path] for path, _ in damaged}
    shown = [
        f"{path} block {', '.join(map(str, blocks[:5]))}" + (f" and {len(blocks) - 5} more" if len(blocks) > 5 else "")
        for path, blocks in files.items()
    ]
    named = "; ".join(shown[:10] or warnings[:3])
    return SourceError(
        f"{place}: pages in the cluster are damaged, their checksums are wrong: {named}",
        hint="The disk or the memory of the server is failing: look after it now. Restore the damaged tables from an "
        'older backup. To take the cluster as it is, set on_damaged_page = "keep" on the source.',
    )


class _Taker:
    """Messages to files. They are small (8 KiB of an incremental backup), so that many are taken together."""

    def __init__(self, files: Files, archives: list[str], version: int, advance: Callable[[int], None]) -> None:
        self.files = files
        self._archives, self._old, self._advance = iter(archives), version < 150000, advance
        self._waiting = bytearray()
        self._manifest: bytearray | None = None

    @property
    def manifest(self) -> bytes:
        return bytes(self._manifest or b"")

    def copy(self) -> None:
        """A copy begins. Before 15 each is an archive, in the order in which the tablespaces were named."""
        if self._old:
            self._begin(next(self._archives))

    def message(self, data: memoryview) -> None:
        if self._old:
            self._content(data)
            return
        kind = data[0]
        if kind == 0x64:  # d: content
            self._content(data[1:])
        elif kind == 0x6E:  # n: an archive begins
            name = bytes(data[1:]).split(b"\0", 1)[0].decode()
            self._begin("" if name == "base.tar" else name.removesuffix(".tar"))
        elif kind == 0x6D:  # m: the manifest begins
            self._manifest = bytearray()
        elif kind != 0x70:  # p: progress
            raise SourceError(f"the server sent a message of an unknown kind {kind}", hint="Update keepwell.")

    def close(self) -> None:
        self._feed()
        self.files.close()

    def _begin(self, tablespace: str) -> None:
        self._feed()
        self.files.begin(tablespace)

    def _content(self, data: memoryview) -> None:
        if self._manifest is not None:
            self._manifest += data
            return
        self._waiting += data
        if len(self._waiting) >= _AT_ONCE:
            self._feed()

    def _feed(self) -> None:
        waiting, self._waiting = self._waiting, bytearray()
        if waiting:
            self.files.feed(memoryview(waiting))
            self._advance(len(waiting))


def _position(rows: list[Row]) -> tuple[int, int]:
    return parse_lsn(str(rows[0]["recptr"])), int(str(rows[0]["tli"]))


def _notice(found: BaseBackup, text: str) -> None:
    if match := _DAMAGED.search(text):
        found.damaged.append((match[1], int(match[2])))
    else:
        found.warnings.append(text)
