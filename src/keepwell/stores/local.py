"""Objects as files in a folder: `file:///var/backups/leads`.

Every path is walked from the open root folder, one part at a time, following no symbolic link, so that nothing
in the store can lead a read or a write out of it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from keepwell.core import pastcache
from keepwell.core.clock import UTC
from keepwell.core.errors import ObjectExists, ObjectMissing, StoreDenied, StoreError, StoreFull, UnsafeStore
from keepwell.core.streams import Buffer
from keepwell.stores.base import ObjectInfo
from keepwell.stores.linking import CannotLink, link_to_free_name
from keepwell.stores.names import check_name, check_prefix, is_name
from keepwell.stores.scratch import Scratch

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BLOCK = 8 << 20
_LARGE = 1 << 20
"""Objects from this size on are written past the page cache."""
_OPEN_UNTIL_FLUSH = 64
"""Files kept open between put and flush, so that a failed write-back is seen by their fsync; more are synced early."""
_ATTEMPTS = 100


class LocalStore:
    """A store in the folder `root`.

    `flush()` makes deletions durable as well as puts. After a flush has failed, every later one fails too:
    a kernel that could not write a page forgets it, so a second fsync would wrongly say that all is well.
    """

    def __init__(self, root: Path, *, create: bool = False) -> None:
        """Open the store. Only with `create` is a missing root made. Raises StoreError."""
        self._path = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would show another path than the policy's
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._scratch: Scratch | None = None
        self._pending: list[tuple[str, int]] = []
        self._touched: set[str] = set()
        self._broken = ""
        self._closed = True
        try:
            if create:
                _make_root(self._path)
            self._root = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise StoreError(
                f"The store {self.url} is not there: no folder {self._path}.",
                hint="If it is on a disk or a share, mount it. If the store is new, `keepwell init` creates it.",
            ) from None
        except NotADirectoryError:
            raise StoreError(
                f"The store {self.url} is not a folder.", hint="Name a folder as the store in the policy."
            ) from None
        except OSError as error:
            raise self._explain(error, "opened") from None
        self._closed = False

    @property
    def url(self) -> str:
        return self._path.as_uri()

    def __repr__(self) -> str:
        return f"LocalStore({self.url})"

    def put(self, name: str, data: Buffer) -> None:
        """As in `Store`. Raises also StoreFull, StoreDenied, and UnsafeStore where the file system cannot link."""
        check_name(name)
        content = memoryview(data).cast("B")
        fd = -1
        try:
            scratch = self._workplace()
            fd, temporary = scratch.create()
            try:
                _write(fd, content)
                self._name(scratch, temporary, name)
            finally:
                scratch.remove(temporary)
        except FileExistsError:
            os.close(fd)
            fd = self._same_or_raise(name, content)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise self._explain(error, "written", name) from None
        except BaseException:
            if fd >= 0:
                os.close(fd)
            raise
        self._remember(name, fd)

    def get(self, name: str) -> bytes:
        return self._read(name, 0, None)

    def get_range(self, name: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise StoreError(f"{name!r} has no bytes {start} to {start + length}.")
        return self._read(name, start, length)

    def head(self, name: str) -> ObjectInfo:
        fd = self._open(name)
        try:
            return _info(name, os.fstat(fd))
        finally:
            os.close(fd)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """As in `Store`. Names that no put can make are not objects and are left out. Raises StoreError."""
        check_prefix(prefix)
        with self._explained("listed", prefix):
            try:
                folder = self._walk(prefix.split("/")[:-1])
            except FileNotFoundError:
                self._check_root()
                return
        yield from self._list(folder, prefix)

    def delete(self, name: str) -> None:
        check_name(name)
        *parents, last = name.split("/")
        with self._explained("deleted", name):
            try:
                folder = self._walk(parents)
            except FileNotFoundError:
                self._check_root()
                return
            try:
                if stat.S_ISDIR(os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode):
                    return  # no object of that name
                os.unlink(last, dir_fd=folder)
            except FileNotFoundError:
                return
            finally:
                os.close(folder)
        with self._lock:
            self._touched.update(_parents(name))
        self._drop_empty(parents)

    def flush(self) -> None:
        """As in `Store`; deletions too. Raises StoreError, from then on always, when the disk did not take the data."""
        with self._flushing:
            with self._lock:
                self._check_open()
                pending, self._pending = self._pending, []
                touched, self._touched = self._touched, set()
            try:
                if self._broken:
                    raise StoreError(
                        f"{self.url} lost data in an earlier write: {self._broken}",
                        hint="Look at the disk (dmesg, df), then run the backup again; keepwell check finds what is lost.",
                    )
                for name, fd in pending:
                    self._sync(fd, name)
                # Contents before names, deep names before shallow ones: a name that survives has its content.
                for folder in sorted(touched, key=lambda name: (-_depth(name), name)):
                    self._sync_folder(folder)
            finally:
                for _, fd in pending:
                    os.close(fd)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for _, fd in self._pending:
                os.close(fd)
            self._pending = []
            if self._scratch:
                self._scratch.close()
            os.close(self._root)

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self.close()

    # Writing

    def _workplace(self) -> Scratch:
        with self._lock:
            self._check_open()
            if self._scratch is None:
                self._scratch = Scratch(self._root)
            return self._scratch

    def _name(self, scratch: Scratch, temporary: str, name: str) -> None:
        """Give the finished file its name. Raises FileExistsError."""
        *parents, last = name.split("/")
        for attempt in range(1, _ATTEMPTS + 1):
            folder = -1
            try:
                folder = self._walk(parents, create=True)
                link_to_free_name(scratch.fd, temporary, folder, last)
                return
            except FileNotFoundError:
                # A delete took the empty folder away meanwhile: make it again.
                if attempt == _ATTEMPTS or not os.fstat(self._root).st_nlink:
                    raise
            except CannotLink as error:
                raise UnsafeStore(
                    f"The file system of {self.url} can neither link nor rename without overwriting ({error}).",
                    hint="keepwell never overwrites, and here it could not be sure. Use another file system (ext4, xfs, "
                    "btrfs, zfs, NFS) or an object store.",
                ) from None
            finally:
                if folder >= 0:
                    os.close(folder)

    def _same_or_raise(self, name: str, content: memoryview) -> int:
        """The open file of that name, where it has this content. Raises ObjectExists."""
        try:
            fd = self._open(name)
        except ObjectMissing:
            raise ObjectExists(f"{name} was in {self.url} a moment ago and is gone, or it is a folder.") from None
        try:
            same = os.fstat(fd).st_size == len(content)
            for at in range(0, len(content), _BLOCK):
                same = same and os.pread(fd, min(_BLOCK, len(content) - at), at) == content[at : at + _BLOCK]
                if not same:
                    break
        except OSError as error:
            os.close(fd)
            raise self._explain(error, "read", name) from None
        if not same:
            os.close(fd)
            raise ObjectExists(f"{name} is already in {self.url}, with other content.")
        return fd

    def _remember(self, name: str, fd: int) -> None:
        """Keep the file for the next flush; where too many wait, make the oldest durable now."""
        with self._lock:
            if self._closed:
                os.close(fd)
                return
            self._touched.update(_parents(name))
            self._pending.append((name, fd))
            if len(self._pending) <= _OPEN_UNTIL_FLUSH:
                return
        with self._flushing:  # a flush must not return before this file is safe
            with self._lock:
                if len(self._pending) <= _OPEN_UNTIL_FLUSH:
                    return
                name, fd = self._pending.pop(0)
            try:
                self._sync(fd, name)
            finally:
                os.close(fd)

    def _sync(self, fd: int, name: str) -> None:
        try:
            os.fsync(fd)
        except OSError as error:
            self._broken = f"{name or 'the top folder'}: {os.strerror(error.errno or errno.EIO)}"
            raise self._explain(error, "made durable", name) from None

    def _sync_folder(self, folder: str) -> None:
        try:
            fd = self._walk(folder.split("/") if folder else [])
        except FileNotFoundError:
            return  # taken away by a delete; the folder above is in the list too
        except OSError as error:
            self._broken = f"{folder}: {os.strerror(error.errno or errno.EIO)}"
            raise self._explain(error, "made durable", folder) from None
        try:
            self._sync(fd, folder)
        finally:
            os.close(fd)

    def _drop_empty(self, parents: Sequence[str]) -> None:
        """Take away the folders that a delete left empty, so that a person browsing sees only what is there."""
        for depth in range(len(parents), 0, -1):
            try:
                above = self._walk(parents[: depth - 1])
                try:
                    os.rmdir(parents[depth - 1], dir_fd=above)
                finally:
                    os.close(above)
            except OSError:
                return  # not empty, or not ours to remove: an empty folder does no harm

    # Reading

    def _read(self, name: str, start: int, length: int | None) -> bytes:
        fd = self._open(name)
        try:
            end = os.fstat(fd).st_size
            if length is not None:
                end = min(end, start + length)
            blocks = []
            while start < end:
                block = os.pread(fd, end - start, start)
                if not block:
                    break  # cut short by somebody just now; the reader above verifies what it gets
                blocks.append(block)
                start += len(block)
            return blocks[0] if len(blocks) == 1 else b"".join(blocks)
        except OSError as error:
            raise self._explain(error, "read", name) from None
        finally:
            os.close(fd)

    def _open(self, name: str) -> int:
        """The open regular file. Raises ObjectMissing, StoreError."""
        check_name(name)
        *parents, last = name.split("/")
        with self._explained("read", name):
            try:
                folder = self._walk(parents)
                try:
                    fd = os.open(last, _FILE_FLAGS, dir_fd=folder)
                finally:
                    os.close(folder)
            except FileNotFoundError:
                self._check_root()
                raise ObjectMissing(f"{name} is not in {self.url}.") from None
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            return fd
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise ObjectMissing(f"{name} is not in {self.url}: there is a folder of that name.")
        raise StoreError(f"{name} in {self.url} is not a regular file.", hint="Somebody else put it there; remove it.")

    def _list(self, folder: int, prefix: str) -> Iterator[ObjectInfo]:
        """The objects below the open folder, which is closed. Folders sort as if their names ended in a slash."""
        found: list[tuple[str, os.stat_result]] = []
        try:
            with self._explained("listed", prefix):
                for entry in os.listdir(folder):
                    # lost+found belongs to the file system, and only root may look into it.
                    if not is_name(entry) or (not prefix and entry == "lost+found"):
                        continue
                    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                        status = os.stat(entry, dir_fd=folder, follow_symlinks=False)
                        found.append((entry + "/" if stat.S_ISDIR(status.st_mode) else entry, status))
        finally:
            os.close(folder)
        for entry, status in sorted(found, key=lambda pair: pair[0]):
            name = prefix + entry
            if entry.endswith("/"):
                with self._explained("listed", name):
                    try:
                        below = self._walk(name.split("/")[:-1])
                    except FileNotFoundError:
                        continue
                yield from self._list(below, name)
            elif stat.S_ISREG(status.st_mode):
                yield _info(name, status)
            elif stat.S_ISLNK(status.st_mode):
                raise self._linked(name)

    def _walk(self, parts: Sequence[str], *, create: bool = False) -> int:
        """The open folder of these name parts. Raises OSError; StoreError at a symbolic link."""
        self._check_open()
        at = os.dup(self._root)
        for depth, part in enumerate(parts):
            try:
                if create:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=at)
                below = os.open(part, _FOLDER_FLAGS, dir_fd=at)
            except (NotADirectoryError, FileExistsError) as error:
                name = "/".join(parts[: depth + 1])
                if stat.S_ISLNK(os.stat(part, dir_fd=at, follow_symlinks=False).st_mode):
                    raise self._linked(name) from None
                if create:
                    raise StoreError(f"{name} in {self.url} is an object; nothing can be put below it.") from None
                raise FileNotFoundError(errno.ENOENT, "no such folder") from error
            finally:
                os.close(at)
            at = below
        return at

    # Errors

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"The store {self.url} was closed.")

    def _check_root(self) -> None:
        """Tell a missing object from a missing store."""
        if not os.fstat(self._root).st_nlink:
            raise StoreError(
                f"The store {self.url} is gone: its folder was removed while in use.",
                hint="If it is on a disk or a share, mount it again.",
            )

    def _linked(self, name: str) -> StoreError:
        return StoreError(
            f"{name} in {self.url} is a symbolic link, which keepwell neither makes nor follows.",
            hint="Replace it by what it points to. To keep the store on another disk, link or mount its top folder.",
        )

    @contextlib.contextmanager
    def _explained(self, done: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._explain(error, done, name) from None

    def _explain(self, error: OSError, done: str, name: str = "") -> StoreError:
        what = f"{name} in {self.url}" if name else f"The store {self.url}"
        why = os.strerror(error.errno) if error.errno else str(error)
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                return StoreFull(
                    f"{what} could not be {done}: no space left ({why}).",
                    hint="Free space on that disk, raise the quota, or run `keepwell prune`.",
                )
            case errno.EACCES | errno.EPERM | errno.EROFS:
                return StoreDenied(
                    f"{what} could not be {done}: {why}.",
                    hint=f"Give the user that runs keepwell the right to the folder {self._path}.",
                )
            case errno.ELOOP:
                return self._linked(name)
        if not self._closed:
            self._check_root()
        return StoreError(f"{what} could not be {done}: {why}.", hint="Look at the disk (dmesg, df) and try again.")


def _write(fd: int, content: memoryview) -> None:
    at = pastcache.write_start(fd, content) if pastcache.FLAG and len(content) >= _LARGE else 0
    while at < len(content):
        at += os.write(fd, content[at : at + _BLOCK])


def _make_root(path: Path) -> None:
    """Make the missing folders of the path, and make them last: their names are synced at once."""
    missing = []
    at = path
    while not at.exists():
        missing.append(at)
        at = at.parent
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _depth(folder: str) -> int:
    return folder.count("/") + 1 if folder else 0


def _parents(name: str) -> list[str]:
    """Every folder above the object, the root as an empty name. Another process may just have made any of them."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]


def _info(name: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(name, status.st_size, dt.datetime.fromtimestamp(status.st_mtime_ns / 1e9, UTC))
