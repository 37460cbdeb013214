"""Making files, folders and links below one folder, and never through a link out of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from blake3 import blake3

from keepwell.core.errors import Damaged, TargetNotEmpty
from keepwell.sources.files.attributes import group_id, user_id
from keepwell.sources.files.entries import FOLDER, HARDLINK, SYMLINK, Entry, parts, show

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HOLE = 64 << 10
_ZEROS = bytes(_HOLE)


@dataclass
class Place:
    """Writes entries in the order of the tree; a folder gets its rights and times when it is complete."""

    root: int
    warnings: list[str] = field(default_factory=list)
    _open: list[tuple[int, Entry]] = field(default_factory=list)
    _as_root: bool = field(default_factory=lambda: os.geteuid() == 0)

    def add(self, entry: Entry, content: Iterable[memoryview], *, linked: bool) -> None:
        """Make the entry. `linked`: its first name is here, so a hard link is made instead of a copy.

        Raises Damaged where the content is not what was backed up, TargetNotEmpty, OSError.
        """
        names = parts(entry.path)
        self.finish(len(names))
        if not names:
            self._open.append((self.root, entry))
            return
        parent, name = self._open[-1][0], os.fsdecode(names[-1])
        try:
            if entry.type == FOLDER:
                os.mkdir(name, 0o700, dir_fd=parent)
                self._open.append((os.open(name, _FOLDER, dir_fd=parent), entry))
            elif entry.type == SYMLINK:
                os.symlink(os.fsdecode(entry.target), name, dir_fd=parent)
                self._own(name, parent, entry)
                os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
            elif entry.type == HARDLINK and linked:
                self._link(entry, name, parent)
            else:
                self._file(entry, name, parent, content)
        except FileExistsError:
            raise TargetNotEmpty(
                f"{show(entry.path)} came into being in the target meanwhile",
                hint="Something else writes there. Restore into a folder that nothing uses.",
            ) from None

    def finish(self, depth: int = 0) -> None:
        """Complete the folders from `depth` names down."""
        while len(self._open) > depth:
            handle, entry = self._open.pop()
            try:
                self._dress(handle, entry)
            finally:
                if handle != self.root:
                    os.close(handle)

    def abandon(self) -> None:
        """Close what is open, without a word about its rights."""
        for handle, _ in self._open:
            if handle != self.root:
                os.close(handle)
        self._open.clear()

    def _file(self, entry: Entry, name: str, parent: int, content: Iterable[memoryview]) -> None:
        handle = os.open(name, _NEW, 0o600, dir_fd=parent)
        try:
            hasher = blake3()
            size = 0
            for block in content:
                hasher.update(block)
                _write(handle, block, size)
                size += len(block)
            os.ftruncate(handle, size)
            if size != entry.size or hasher.hexdigest() != entry.digest:
                raise Damaged(
                    f"{show(entry.path)} came out of the vault with other bytes than went in",
                    hint="The file was not kept. Restore it from an older backup or a copy; "
                    "other files can be restored by their paths.",
                )
            self._dress(handle, entry)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=parent)
            raise
        finally:
            os.close(handle)

    def _link(self, entry: Entry, name: str, parent: int) -> None:
        with self._folder_of(entry.target) as (folder, first):
            os.link(first, name, src_dir_fd=folder, dst_dir_fd=parent, follow_symlinks=False)

    @contextlib.contextmanager
    def _folder_of(self, path: bytes) -> Iterator[tuple[int, str]]:
        """Step by step, because a whole path could be led away by a link in its middle."""
        *folders, name = parts(path)
        handle = os.dup(self.root)
        try:
            for folder in folders:
                inner = os.open(os.fsdecode(folder), _FOLDER, dir_fd=handle)
                os.close(handle)
                handle = inner
            yield handle, os.fsdecode(name)
        finally:
            os.close(handle)

    def _dress(self, handle: int, entry: Entry) -> None:
        """Owner, rights, attributes, times: in this order, as each of them may reset the next."""
        self._own(handle, None, entry)
        try:
            os.fchmod(handle, entry.mode)
        except OSError as error:
            self._warn(entry, f"its rights {entry.mode:o} could not be set", error)
        for name, value in entry.xattrs:
            try:
                os.setxattr(handle, os.fsdecode(name), value)
            except OSError as error:
                self._warn(entry, f"the attribute {show(name)} could not be set", error)
        os.utime(handle, ns=(entry.mtime_ns, entry.mtime_ns))

    def _own(self, what: int | str, parent: int | None, entry: Entry) -> None:
        if not self._as_root:
            return
        uid, gid = user_id(entry.user, entry.uid), group_id(entry.group, entry.gid)
        try:
            if isinstance(what, int):
                os.fchown(what, uid, gid)
            else:
                os.chown(what, uid, gid, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            self._warn(entry, f"its owner {entry.user or uid} could not be set", error)

    def _warn(self, entry: Entry, what: str, error: OSError) -> None:
        self.warnings.append(f"{show(entry.path)}: {what}: {error.strerror}")


def _write(handle: int, block: memoryview, at: int) -> None:
    """Append, leaving holes where whole stretches are zero."""
    start = 0
    while start < len(block):
        # Stretches are aligned in the file, so that a hole is one for the file system.
        end = min(len(block), start + _HOLE - (at + start) % _HOLE)
        part = block[start:end]
        if len(part) != _HOLE or part != _ZEROS:
            while part:
                part = part[os.pwrite(handle, part, at + start) :]
                start = end - len(part)
        start = end
