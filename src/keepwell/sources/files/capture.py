"""Reading a folder into the streams `tree` and `content`."""

from __future__ import annotations

import os
import stat
from typing import Any

from blake3 import blake3

from keepwell.core.errors import Interrupted, SourceError
from keepwell.core.streams import Context, Facts, Sink, StreamWriter
from keepwell.sources.files.attributes import group_name, read_xattrs, user_name
from keepwell.sources.files.cache import Cache, Known
from keepwell.sources.files.content import Contents
from keepwell.sources.files.entries import (
    CONTENT,
    FILE,
    FOLDER,
    HARDLINK,
    ROOT,
    SYMLINK,
    TREE,
    Entry,
    encode,
    identity,
    show,
)
from keepwell.sources.files.spec import Spec, excluder
from keepwell.sources.files.walk import Found, Trouble, open_root, refuse_holes, walk

_MOST_WARNINGS = 100
_TREE_BLOCK = 256 << 10
_SPECIAL = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "named pipe", stat.S_IFBLK: "device", stat.S_IFCHR: "device"}


def capture(spec: Spec, sink: Sink, context: Context) -> Facts:
    """Read the folder into the streams `tree` (see `entries`) and `content` (files one after another).

    Raises SourceError where the folder is missing, anything in it cannot be read (all such names are listed),
    or it is taken away meanwhile. Facts, besides the common ones: `root`, `links` (symbolic), `hardlinks` (further
    names of a file, counted in `files` too), `reused` (bytes not read again), `excluded` (names left out), `owners` (list of user, uid, group, gid, entries,
    digest of their paths) and `attributes` (entries with extended attributes and their digest, or None).
    """
    root = open_root(spec.path)
    cache = Cache(context.cache, spec.path)
    done = False
    try:
        facts = _Capture(spec, sink, context, cache).run(root)
        done = True
        return facts
    finally:
        cache.close(keep=done)
        os.close(root)


class _Capture:
    def __init__(self, spec: Spec, sink: Sink, context: Context, cache: Cache) -> None:
        self.spec, self.context, self.cache = spec, context, cache
        self.task = f"{spec.path.name or spec.path}: files"
        self.tree: StreamWriter = sink.stream(TREE)
        self.contents = Contents(sink.stream(CONTENT), self.step)
        self.started_ns = int(context.clock.now().timestamp() * 10**9)
        self.trouble = Trouble()
        self.lines = bytearray()
        self.summary = Summary()
        self.warnings: list[str] = []
        self.links: dict[tuple[int, int], Entry] = {}
        self.reused = 0

    def run(self, root: int) -> Facts:
        self.context.progress.begin(self.task)
        at_start = os.fstat(root)
        try:
            self.add(self.entry(ROOT, FOLDER, at_start, read_xattrs(root) if self.spec.attributes else ()))
        except OSError as error:
            self.trouble.unreadable.append((ROOT, error.strerror or str(error)))
        for found in walk(root, excluder(self.spec.exclude), self.trouble):
            if self.context.cancelled():
                raise Interrupted("the backup was interrupted", hint="Nothing was changed; start it again.")
            self.take(found)
        refuse_holes(self.spec.path, self.trouble)
        self.require_same_root(at_start)
        self.tree.write(self.lines)
        self.tree.close()
        self.contents.writer.close()
        self.context.progress.end(self.task)
        for path in self.trouble.vanished:
            self.context.progress.note(f"{show(path)} was removed during the backup and is not in it")
        if not self.summary.files:
            self.warnings.append("the folder has no files; is the disk mounted?")
        return {
            "type": "files",
            "root": show(os.fsencode(self.spec.path)),
            "streams": [TREE, CONTENT],
            **self.summary.facts(attributes=self.spec.attributes),
            "reused": self.reused,
            "excluded": self.trouble.excluded,
            "warnings": _shortened(self.warnings),
        }

    def take(self, found: Found) -> None:
        kind = stat.S_IFMT(found.stat.st_mode)
        try:
            if kind == stat.S_IFREG:
                self.take_file(found)
            elif found.folder is not None:
                xattrs = read_xattrs(found.folder) if self.spec.attributes else ()
                self.add(self.entry(found.path, FOLDER, found.stat, xattrs))
            elif kind == stat.S_IFLNK:
                entry = self.entry(found.path, SYMLINK, found.stat, ())
                entry.target = os.fsencode(os.readlink(found.name, dir_fd=found.parent))
                self.add(entry)
            else:
                self.warnings.append(f"{show(found.path)} is a {_SPECIAL.get(kind, 'special file')} and is not kept")
        except FileNotFoundError:
            self.trouble.vanished.append(found.path)
        except OSError as error:
            self.trouble.unreadable.append((found.path, error.strerror or str(error)))

    def take_file(self, found: Found) -> None:
        key = (found.stat.st_dev, found.stat.st_ino)
        first = self.links.get(key) if found.stat.st_nlink > 1 else None
        if first is not None:
            entry = self.entry(found.path, HARDLINK, found.stat, first.xattrs)
            entry.mtime_ns, entry.mode = first.mtime_ns, first.mode
            entry.size, entry.offset, entry.digest, entry.target = first.size, first.offset, first.digest, first.path
            self.add(entry)
            return
        if self.trouble.unreadable:
            # The backup fails anyway; go on only to name everything that must be mended.
            os.close(os.open(found.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=found.parent))
            return
        entry = self.known_file(found) or self.new_file(found)
        if found.stat.st_nlink > 1:
            self.links[key] = entry
        self.add(entry)

    def known_file(self, found: Found) -> Entry | None:
        known = self.cache.find(found.path)
        if known is None or not known.fits(found.stat):
            return None
        offset = self.contents.reuse(known.ids, known.size)
        if offset is None:
            return None
        self.step(known.size)
        self.reused += known.size
        self.cache.remember(found.path, known, self.started_ns)
        entry = self.entry(found.path, FILE, found.stat, known.xattrs if self.spec.attributes else ())
        entry.size, entry.offset, entry.digest = known.size, offset, known.digest
        return entry

    def new_file(self, found: Found) -> Entry:
        stored = self.contents.store(found)
        now = stored.stat
        if stored.steady:
            known = Known(
                stored.size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino, stored.digest, stored.ids, stored.xattrs
            )
            self.cache.remember(found.path, known, self.started_ns)
        else:
            self.warnings.append(
                f"{show(found.path)} was being written during the backup: kept are the {stored.size} bytes read last"
            )
        entry = self.entry(found.path, FILE, now, stored.xattrs if self.spec.attributes else ())
        entry.size, entry.offset, entry.digest = stored.size, stored.offset, stored.digest
        return entry

    def entry(self, path: bytes, kind: str, now: os.stat_result, xattrs: tuple[tuple[bytes, bytes], ...]) -> Entry:
        return Entry(
            path,
            kind,
            stat.S_IMODE(now.st_mode),
            now.st_uid,
            now.st_gid,
            now.st_mtime_ns,
            user_name(now.st_uid),
            group_name(now.st_gid),
            xattrs=xattrs,
        )

    def add(self, entry: Entry) -> None:
        self.summary.add(entry)
        self.lines += encode(entry)
        if len(self.lines) >= _TREE_BLOCK:
            self.tree.write(self.lines)
            self.lines = bytearray()

    def step(self, size: int) -> None:
        self.context.progress.advance(self.task, size)
        if self.context.cancelled():
            raise Interrupted("the backup was interrupted", hint="Nothing was changed; start it again.")

    def require_same_root(self, at_start: os.stat_result) -> None:
        """An unmounted disk looks like files that vanished one by one."""
        try:
            now = self.spec.path.stat()
        except OSError:
            now = None
        if now is None or (now.st_dev, now.st_ino) != (at_start.st_dev, at_start.st_ino):
            raise SourceError(
                f"{self.spec.path} was removed, replaced or unmounted during the backup",
                hint="See that the disk is mounted, and take the backup again.",
            )


class Summary:
    """Counts and digests over entries in the order of the tree."""

    def __init__(self) -> None:
        self.files = self.folders = self.links = self.hardlinks = self.size = 0
        self._attributes = 0
        self._all, self._xattrs = blake3(), blake3()
        self._owners: dict[tuple[str | None, int, str | None, int], tuple[int, Any]] = {}

    def add(self, entry: Entry) -> None:
        self.files += entry.type in (FILE, HARDLINK)
        self.folders += entry.type == FOLDER and entry.path != ROOT
        self.links += entry.type == SYMLINK
        self.hardlinks += entry.type == HARDLINK
        self.size += entry.size if entry.type == FILE else 0
        self._all.update(identity(entry))
        if entry.xattrs:
            self._attributes += 1
            self._xattrs.update(repr((entry.path, entry.xattrs)).encode())
        owner = (entry.user, entry.uid, entry.group, entry.gid)
        count, hasher = self._owners.get(owner) or (0, blake3())
        hasher.update(entry.path + b"\n")
        self._owners[owner] = (count + 1, hasher)

    def facts(self, *, attributes: bool) -> dict[str, Any]:
        return {
            "files": self.files,
            "folders": self.folders,
            "links": self.links,
            "hardlinks": self.hardlinks,
            "bytes": self.size,
            "digest": self._all.hexdigest(),
            "owners": [
                {"user": user, "uid": uid, "group": group, "gid": gid, "entries": count, "digest": hasher.hexdigest()}
                for (user, uid, group, gid), (count, hasher) in self._owners.items()
            ],
            "attributes": {"entries": self._attributes, "digest": self._xattrs.hexdigest()} if attributes else None,
        }


def _shortened(warnings: list[str]) -> list[str]:
    more = len(warnings) - _MOST_WARNINGS
    return warnings if more <= 0 else [*warnings[:_MOST_WARNINGS], f"and {more} more like these"]
