"""Is a restored folder what was backed up, and if not: which file?"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from typing import IO, Any, NoReturn

from keepwell.core.errors import Interrupted, SourceError, UsageError
from keepwell.core.streams import (
    Buffer,
    Context,
    Cut,
    Discard,
    Facts,
    Finding,
    Held,
    Put,
    Streams,
    StreamWriter,
    in_order,
)
from keepwell.core.workfolder import WorkFolder
from keepwell.sources.files.attributes import group_id, holds_xattrs, user_id
from keepwell.sources.files.capture import capture
from keepwell.sources.files.entries import TREE, Entry, identity, parts, read_tree, show
from keepwell.sources.files.spec import Spec, Target
from keepwell.sources.files.walk import Trouble, open_root, walk

_MOST_FINDINGS = 100
_SPOOL = 16 << 20


@contextlib.contextmanager
def sandbox(facts: Facts, context: Context) -> Iterator[Target]:  # noqa: ARG001 - the contract of sources
    """A private folder; it is removed afterwards."""
    with WorkFolder("sandbox", context.work) as folder:
        yield Target(folder / "files")


def respec(target: Target, facts: Facts, spec: Spec) -> Spec:  # noqa: ARG001 - the contract of sources
    """How to capture the restored folder: all of it, as what was excluded is not there.

    Extended attributes do not count where the file system there cannot hold any.
    """
    return Spec(target.path, (), spec.attributes and holds_xattrs(target.path))


def examine(target: Target, facts: Facts, context: Context) -> list[Finding]:
    """Every folder can be listed, and there are as many files, folders, links and bytes as were backed up."""
    counts = {"files": 0, "folders": 0, "links": 0, "bytes": 0}
    trouble = Trouble()
    seen: set[tuple[int, int]] = set()
    try:
        root = open_root(target.path)
    except SourceError as error:
        return [Finding(target.path.name, error.message)]
    try:
        for found in walk(root, lambda _path, _folder: False, trouble):
            if context.cancelled():
                raise Interrupted("the examination was interrupted", hint="Nothing was changed; start it again.")
            kind = stat.S_IFMT(found.stat.st_mode)
            if kind == stat.S_IFREG:
                counts["files"] += 1
                inode = (found.stat.st_dev, found.stat.st_ino)
                if found.stat.st_nlink == 1 or inode not in seen:
                    counts["bytes"] += found.stat.st_size
                if found.stat.st_nlink > 1:
                    seen.add(inode)
            elif kind in (stat.S_IFDIR, stat.S_IFLNK):
                counts["folders" if kind == stat.S_IFDIR else "links"] += 1
            else:
                trouble.unreadable.append((found.path, "not a file, folder or link"))
    finally:
        os.close(root)
    findings = [Finding(show(path), why) for path, why in trouble.unreadable[:_MOST_FINDINGS]]
    for what, count in counts.items():
        if count != facts[what]:
            findings.append(Finding(facts["root"], f"has {count} {what}; {facts[what]} were backed up"))
    return findings


def count_rows(target: Target, facts: Facts) -> dict[str, int]:  # noqa: ARG001 - the contract of sources
    """Files have no tables."""
    return {}


def query(target: Target, sql: str) -> NoReturn:  # noqa: ARG001 - the contract of sources
    """Raises UsageError."""
    raise UsageError(
        "a check with SQL cannot be asked of a folder of files",
        hint="Move the check to a database source in the policy, or use a check with a command.",
    )


def compare(then: Facts, now: Facts, *, streams: Streams | None = None, target: Target | None = None) -> list[Finding]:
    """What differs between the backup and the restored folder; owners count when run as root.

    Facts hold one digest for everything. With the backup's `streams` and the `target`, both are walked and
    every file that is lost, changed or new is named (the first 100 of them).
    """
    findings = _compare_facts(then, now)
    if not findings or streams is None or target is None:
        return findings
    named = _compare_trees(streams, target, attributes=now["attributes"] is not None)
    return named or findings


def _compare_facts(then: Facts, now: Facts) -> list[Finding]:
    root = then["root"]
    findings = [
        Finding(root, f"has {now[what]} {what}; {then[what]} were backed up")
        for what in ("files", "folders", "links", "hardlinks", "bytes")
        if then[what] != now[what]
    ]
    if then["digest"] != now["digest"] and not findings:
        findings.append(Finding(root, "names, contents, rights or times are not those that were backed up"))
    if None not in (then["attributes"], now["attributes"]) and then["attributes"] != now["attributes"]:
        findings.append(Finding(root, "extended attributes are not those that were backed up"))
    if os.geteuid() == 0 and then["digest"] == now["digest"] and _owned(then) != _owned(now):
        findings.append(Finding(root, "owners are not those that were backed up"))
    return findings


def _owned(facts: Facts) -> dict[tuple[int, int], Any]:
    """Paths by owner as this machine numbers them: how a restore here sets them."""
    owned: dict[tuple[int, int], list[tuple[int, str]]] = {}
    for owner in facts["owners"]:
        here = (user_id(owner["user"], owner["uid"]), group_id(owner["group"], owner["gid"]))
        owned.setdefault(here, []).append((owner["entries"], owner["digest"]))
    # Where two owners became one here, only the number of their paths can be compared.
    return {here: found[0] if len(found) == 1 else sum(count for count, _ in found) for here, found in owned.items()}


def _compare_trees(streams: Streams, target: Target, *, attributes: bool) -> list[Finding]:
    findings: list[Finding] = []
    with tempfile.SpooledTemporaryFile(_SPOOL) as spool:
        kept = _TreeOnly(spool)
        capture(Spec(target.path, (), attributes), kept, Context())
        before, after = read_tree(streams), read_tree(kept)
        old, new = next(before, None), next(after, None)
        more = 0
        while old or new:
            if new is None or (old is not None and parts(old.path) < parts(new.path)):
                assert old is not None
                found, old = Finding(show(old.path), f"the {old.type} is missing"), next(before, None)
            elif old is None or parts(new.path) < parts(old.path):
                found, new = Finding(show(new.path), f"the {new.type} was not in the backup"), next(after, None)
            else:
                problem = _difference(old, new, attributes=attributes)
                path = show(old.path)
                old, new = next(before, None), next(after, None)
                if not problem:
                    continue
                found = Finding(path, problem)
            if len(findings) < _MOST_FINDINGS:
                findings.append(found)
            else:
                more += 1
    if more:
        findings.append(Finding("…", f"and {more} more"))
    return findings


def _difference(old: Entry, new: Entry, *, attributes: bool) -> str:
    if old.type != new.type:
        return f"is a {new.type}; it was a {old.type}"
    if old.size != new.size:
        return f"has {new.size} bytes; {old.size} were backed up"
    if old.digest != new.digest:
        return "the content is not what was backed up"
    if old.target != new.target:
        return f"points to {show(new.target)}; it was {show(old.target)}"
    if old.mode != new.mode:
        return f"has rights {new.mode:o}; they were {old.mode:o}"
    if identity(old) != identity(new):
        return "has another time than was backed up"
    if attributes and old.xattrs != new.xattrs:
        return "has other extended attributes than were backed up"
    owner = (user_id(old.user, old.uid), group_id(old.group, old.gid))
    if os.geteuid() == 0 and owner != (new.uid, new.gid):
        return f"belongs to {new.user or new.uid}:{new.group or new.gid}; it was {old.user or old.uid}:{old.group or old.gid}"
    return ""


class _TreeOnly:
    """Keeps the stream `tree` in a file and lets the contents go."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def stream(self, name: str, cut: Cut = "content") -> StreamWriter:
        writer = Discard().stream(name, cut)
        return _ToFile(self._file, writer) if name == TREE else writer

    def names(self) -> list[str]:
        return [TREE]

    def size(self, name: str) -> int:
        return self._file.seek(0, os.SEEK_END)

    def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        self._file.seek(start)
        while block := self._file.read(1 << 20):
            yield block

    def scatter(self, name: str, put: Put) -> None:
        in_order(self, name, put)

    def find(self, ids: Buffer) -> Held | None:
        return None

    def spread(self, held: Held) -> float:
        return 1.0


class _ToFile:
    def __init__(self, file: IO[bytes], writer: StreamWriter) -> None:
        self._file = file
        self._writer = writer
        self.boundary, self.take_ids, self.close = writer.boundary, writer.take_ids, writer.close
        self.reuse, self.overlay, self.anew, self.room = writer.reuse, writer.overlay, writer.anew, writer.room

    @property
    def position(self) -> int:
        return self._writer.position

    def write(self, data: Buffer) -> None:
        self._writer.write(data)
        self._file.write(data)
