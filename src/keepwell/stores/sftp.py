"""Objects as files on an SSH server: `sftp://user@host/path` (docs/format.md, section 10; docs/how-to/stores.md).

A put writes a temporary file, has the server make it durable (`fsync@openssh.com`) and gives it its name by a hard link
(`hardlink@openssh.com`), which fails where the name is taken. SFTP's own rename is not used: OpenSSH's falls back to
looking first and overwriting then, and other servers overwrite outright.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import secrets
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import asyncssh
from asyncssh import FXF_CREAT, FXF_EXCL, FXF_READ, FXF_WRITE, SFTPAttrs, SFTPNoSuchFile, SFTPNoSuchPath

from keepwell.core.clock import UTC
from keepwell.core.errors import ObjectExists, ObjectMissing, StoreDenied, StoreError, UnsafeStore
from keepwell.core.streams import Buffer
from keepwell.stores.base import ObjectInfo
from keepwell.stores.names import check_name, check_prefix, is_name
from keepwell.stores.sftp_address import read_address
from keepwell.stores.sftp_errors import explain, full
from keepwell.stores.sftp_session import Session, Sftp

T = TypeVar("T")
_SMALL = 256 << 10
_BLOCK = 4 << 20
_ATTEMPTS = 100
_AT_ONCE = 32
"""Folders listed, or made durable, side by side: what counts is the way there and back."""
_SCRATCH = ".tmp"
_DEAD_AFTER = 24 * 3600
"""Seconds after which a temporary file belongs to nobody: no put takes so long."""
_MISSING = (SFTPNoSuchFile, SFTPNoSuchPath)


class SftpStore:
    """Fulfils `Store`. Options: docs/how-to/stores.md."""

    def __init__(self, url: str, options: Mapping[str, str] | None = None, *, create: bool = False) -> None:
        """Nothing is sent yet. `create` makes the missing folder at the first call. Raises StoreError for an address or
        an option that cannot be right.
        """
        self._address = read_address(url, options)
        self._session = Session(self._address)
        self._create = create
        self._ready = False
        self._scratch_ready = False
        self._lock = threading.Lock()
        self._touched: set[str] = set()
        self._broken = ""

    @property
    def url(self) -> str:
        return self._address.url

    def __repr__(self) -> str:
        return f"SftpStore({self.url})"

    def put(self, name: str, data: Buffer) -> None:
        """As in `Store`. Raises also UnsafeStore where the server has no hard links, or no fsync."""
        check_name(name)
        content = memoryview(data).cast("B")
        self._run(lambda sftp: self._put(sftp, name, content), "written", name, large=len(content) > _SMALL)
        with self._lock:
            self._touched.update(_parents(name))

    def get(self, name: str) -> bytes:
        check_name(name)
        return self._run(lambda sftp: self._read(sftp, name, 0, None), "read", name, large=True)

    def get_range(self, name: str, start: int, length: int) -> bytes:
        check_name(name)
        if start < 0 or length < 0:
            raise StoreError(f"{name!r} has no bytes {start} to {start + length}.")
        if length == 0:
            self.head(name)
            return b""
        return self._run(lambda sftp: self._read(sftp, name, start, length), "read", name, large=length > _SMALL)

    def head(self, name: str) -> ObjectInfo:
        check_name(name)
        return self._run(lambda sftp: self._head(sftp, name), "read", name)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """As in `Store`. Names that no put can make are not objects and are left out. Raises StoreError."""
        check_prefix(prefix)
        found = self._run(lambda sftp: self._list(sftp, prefix), "listed", prefix, large=True)
        return iter(sorted(found, key=lambda info: info.name))

    def delete(self, name: str) -> None:
        check_name(name)
        self._run(lambda sftp: self._delete(sftp, name), "deleted", name)
        with self._lock:
            self._touched.update(_parents(name))

    def flush(self) -> None:
        """Has the server make the new names durable; contents are since their put. Deletions too."""
        if not self._address.fsync:
            return
        with self._lock:
            touched, self._touched = self._touched, set()
        try:
            if self._broken:
                raise StoreError(
                    f"{self.url} lost data in an earlier write: {self._broken}",
                    hint="Look at the server's disk, then run the backup again; keepwell check finds what is lost.",
                )
            if touched:
                self._run(lambda sftp: self._sync_folders(sftp, touched), "made durable", large=True)
        except BaseException:
            with self._lock:
                self._touched |= touched
            raise

    def close(self) -> None:
        self._session.close()

    def __del__(self) -> None:
        if hasattr(self, "_session"):
            self._session.close()

    def _run(self, work: Callable[[Sftp], Awaitable[T]], done: str, name: str = "", *, large: bool = False) -> T:
        async def ready(sftp: Sftp) -> T:
            if not self._ready:
                await self._open(sftp)
            return await work(sftp)

        try:
            return self._session.run(ready, self._address.transfer_timeout if large else self._address.timeout)
        except (asyncssh.Error, OSError) as error:
            raise explain(error, self._address, done, name) from None

    # What runs in the session's thread

    def _path(self, name: str) -> str:
        return f"{self._address.root}/{name}" if name else self._address.root

    async def _open(self, sftp: Sftp) -> None:
        found = await _look(sftp, self._address.root, follow=True)
        if found is None and self._create:
            above = "/" if self._address.root.startswith("/") else ""
            for part in self._address.root.strip("/").split("/"):
                above += part
                if await _look(sftp, above, follow=True) is None:
                    with contextlib.suppress(asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists):
                        await sftp.mkdir(above, SFTPAttrs(permissions=0o700))
                above += "/"
            found = await _look(sftp, self._address.root, follow=True)
        if found is None:
            raise self._gone()
        if not _is_folder(found):
            raise StoreError(f"The store {self.url} is not a folder.", hint="Name a folder as the store in the policy.")
        self._ready = True

    def _gone(self) -> StoreError:
        return StoreError(
            f"The store {self.url} is not there: {self._address.host} has no folder {self._address.root}.",
            hint="If it is on a disk of that server, mount it. If the store is new, `keepwell init` creates it.",
        )

    async def _check_root(self, sftp: Sftp) -> None:
        """Tell a missing object from a missing store."""
        if await _look(sftp, self._address.root, follow=True) is None:
            raise self._gone()

    async def _put(self, sftp: Sftp, name: str, content: memoryview) -> None:
        temporary = self._path(f"{_SCRATCH}/{secrets.token_hex(12)}")
        try:
            await self._write(sftp, temporary, content)
            if await self._link(sftp, temporary, name):
                return
        except (asyncssh.SFTPFailure, asyncssh.SFTPNoSpaceOnFilesystem) as error:
            if await _is_full(sftp, self._address.root, len(content)):
                raise full(self._address, "written", name) from None
            raise error from None
        finally:
            with contextlib.suppress(asyncssh.Error, OSError):  # what stays is cleared away a day later
                await sftp.remove(temporary)
        await self._compare(sftp, name, content)

    async def _write(self, sftp: Sftp, temporary: str, content: memoryview) -> None:
        if not self._scratch_ready:
            await self._clear_scratch(sftp)
        flags, mode = FXF_WRITE | FXF_CREAT | FXF_EXCL, SFTPAttrs(permissions=0o600)
        try:
            file = await sftp.open(temporary, flags, mode, encoding=None)
        except _MISSING:  # somebody tidied up
            await self._check_root(sftp)
            await self._clear_scratch(sftp)
            file = await sftp.open(temporary, flags, mode, encoding=None)
        async with file:
            for at in range(0, len(content), _BLOCK):
                await file.write(bytes(content[at : at + _BLOCK]), at)
            if self._address.fsync:
                await self._sync(file, temporary)

    async def _sync(self, file: asyncssh.SFTPClientFile, name: str) -> None:
        try:
            await file.fsync()
        except asyncssh.SFTPOpUnsupported:
            raise self._no_fsync() from None
        except asyncssh.SFTPError as error:
            if not isinstance(error, asyncssh.SFTPConnectionLost | asyncssh.SFTPNoConnection):
                self._broken = f"{name}: {error.reason}"
            raise

    def _no_fsync(self) -> UnsafeStore:
        return UnsafeStore(
            f"The SFTP server of {self.url} cannot be asked to make data durable (fsync@openssh.com): what it has "
            "confirmed may be lost when its power fails.",
            hint="Use a server with OpenSSH. To accept that, set the store's option fsync = false.",
        )

    async def _clear_scratch(self, sftp: Sftp) -> None:
        """Make the folder for temporary files; take out what puts that died have left, by the server's clock."""
        folder = self._path(_SCRATCH)
        if await _look(sftp, folder) is None:
            with contextlib.suppress(asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists):
                await sftp.mkdir(folder, SFTPAttrs(permissions=0o700))
        mark = f"{folder}/{secrets.token_hex(12)}"
        await (await sftp.open(mark, FXF_WRITE | FXF_CREAT | FXF_EXCL, SFTPAttrs(permissions=0o600))).close()
        try:
            now = (await sftp.lstat(mark)).mtime or 0
            async for entry, attrs in _entries(sftp, folder):
                if not _is_folder(attrs) and now - (attrs.mtime or 0) > _DEAD_AFTER:
                    with contextlib.suppress(asyncssh.SFTPError):  # cleared by another process meanwhile
                        await sftp.remove(f"{folder}/{entry}")
        finally:
            with contextlib.suppress(asyncssh.Error, OSError):
                await sftp.remove(mark)
        self._scratch_ready = True

    async def _link(self, sftp: Sftp, temporary: str, name: str) -> bool:
        """Give the finished file its name; False where the name is taken."""
        path = self._path(name)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await sftp.link(temporary, path)
                return True
            except _MISSING:
                # A new folder; or a delete took the empty one away just now: make it again.
                if attempt == _ATTEMPTS:
                    raise
                await self._make_folders(sftp, name)
            except asyncssh.SFTPOpUnsupported:
                raise self._no_links("it has no hard links (hardlink@openssh.com)") from None
            except (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists):
                if await _look(sftp, path) is None:
                    if await _is_full(sftp, self._address.root, 0):
                        raise
                    raise self._no_links("a hard link failed") from None
                return False
            except asyncssh.SFTPPermissionDenied as error:
                if await _look(sftp, path) is not None:
                    return False
                raise StoreDenied(
                    f"{name} could not be written to {self.url}: the server lets nobody make hard links there "
                    f"({error.reason}).",
                    hint=f"Give the user {self._address.user} the right to write in {self._address.root}. FAT and exFAT have "
                    "no hard links: use a folder on another file system.",
                ) from None
        raise AssertionError  # the last attempt raises

    def _no_links(self, why: str) -> UnsafeStore:
        return UnsafeStore(
            f"The SFTP server of {self.url} offers no way to give a file a name without overwriting: {why}.",
            hint="keepwell never overwrites, and here it could not be sure. Use a server with OpenSSH and a file system "
            "with hard links (ext4, xfs, btrfs, zfs), or another store.",
        )

    async def _make_folders(self, sftp: Sftp, name: str) -> None:
        await self._check_root(sftp)
        for folder in _parents(name)[1:]:
            found = await _look(sftp, self._path(folder))
            if found is None:
                with contextlib.suppress(asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists, *_MISSING):
                    await sftp.mkdir(self._path(folder), SFTPAttrs(permissions=0o700))
            elif stat.S_ISLNK(found.permissions or 0):
                raise self._linked(folder)
            elif not _is_folder(found):
                raise StoreError(f"{folder} in {self.url} is an object; nothing can be put below it.")

    async def _compare(self, sftp: Sftp, name: str, content: memoryview) -> None:
        """Raises ObjectExists unless the object of that name has this content: then it may be this very put's."""
        attrs = await _look(sftp, self._path(name))
        if attrs is None or _is_folder(attrs):
            raise ObjectExists(f"{name} was in {self.url} a moment ago and is gone, or it is a folder.")
        if attrs.size != len(content) or await self._read(sftp, name, 0, None) != content:
            raise ObjectExists(f"{name} is already in {self.url}, with other content.")

    async def _read(self, sftp: Sftp, name: str, start: int, length: int | None) -> bytes:
        try:
            async with await sftp.open(self._path(name), FXF_READ, encoding=None) as file:
                attrs = await file.stat()
                if _is_folder(attrs):
                    raise ObjectMissing(f"{name} is not in {self.url}: there is a folder of that name.")
                end = attrs.size or 0
                if length is not None:
                    end = min(end, start + length)
                data: Any = await file.read(end - start, start) if end > start else b""
        except _MISSING:
            await self._check_root(sftp)
            raise ObjectMissing(f"{name} is not in {self.url}.") from None
        return bytes(data)

    async def _head(self, sftp: Sftp, name: str) -> ObjectInfo:
        attrs = await _look(sftp, self._path(name))
        if attrs is None:
            await self._check_root(sftp)
            raise ObjectMissing(f"{name} is not in {self.url}.")
        if _is_folder(attrs):
            raise ObjectMissing(f"{name} is not in {self.url}: there is a folder of that name.")
        if stat.S_ISLNK(attrs.permissions or 0):
            raise self._linked(name)
        return _info(name, attrs)

    async def _list(self, sftp: Sftp, prefix: str) -> Sequence[ObjectInfo]:
        found = []
        gate = asyncio.Semaphore(_AT_ONCE)

        async def walk(above: str) -> None:
            folders = []
            async with gate:
                try:
                    async for entry, attrs in _entries(sftp, self._path(above.removesuffix("/"))):
                        # lost+found belongs to the file system, and only root may look into it.
                        if not is_name(entry) or (not above and entry == "lost+found"):
                            continue
                        if _is_folder(attrs):
                            folders.append(f"{above}{entry}/")
                        elif stat.S_ISLNK(attrs.permissions or 0):
                            raise self._linked(above + entry)
                        elif stat.S_ISREG(attrs.permissions or stat.S_IFREG):
                            found.append(_info(above + entry, attrs))
                except _MISSING:  # deleted meanwhile, or never there
                    return
            await asyncio.gather(*(walk(folder) for folder in folders))

        await walk(prefix)
        if not found:
            await self._check_root(sftp)
        return found

    async def _delete(self, sftp: Sftp, name: str) -> None:
        try:
            await sftp.remove(self._path(name))
        except _MISSING:
            await self._check_root(sftp)
            return
        except asyncssh.SFTPError:
            attrs = await _look(sftp, self._path(name))
            if attrs is None or _is_folder(attrs):
                return  # no object of that name
            raise
        # So that a person browsing sees only what is there.
        for folder in reversed(_parents(name)[1:]):
            try:
                await sftp.rmdir(self._path(folder))
            except asyncssh.SFTPConnectionLost:
                raise
            except asyncssh.SFTPError:
                return  # not empty

    async def _sync_folders(self, sftp: Sftp, touched: set[str]) -> None:
        """OpenSSH opens a folder like a file, and so it can be made durable like one."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def sync(folder: str) -> None:
            async with gate:
                try:
                    file = await sftp.open(self._path(folder), FXF_READ, encoding=None)
                except _MISSING:
                    return  # taken away by a delete; the folder above is in the list too
                except (asyncssh.SFTPFailure, asyncssh.SFTPFileIsADirectory):
                    raise self._no_fsync() from None
                async with file:
                    await self._sync(file, folder)

        # Deep names before shallow ones: a folder's name is made durable after what is in it.
        for depth in sorted({folder.count("/") + bool(folder) for folder in touched}, reverse=True):
            await asyncio.gather(*(sync(f) for f in touched if f.count("/") + bool(f) == depth))

    def _linked(self, name: str) -> StoreError:
        return StoreError(
            f"{name} in {self.url} is a symbolic link, which keepwell neither makes nor follows.",
            hint="Replace it by what it points to. To keep the store on another disk, link or mount its top folder.",
        )


async def _look(sftp: Sftp, path: str, *, follow: bool = False) -> SFTPAttrs | None:
    try:
        return await (sftp.stat(path) if follow else sftp.lstat(path))
    except _MISSING:
        return None


async def _entries(sftp: Sftp, folder: str) -> AsyncIterator[tuple[str, SFTPAttrs]]:
    async for entry in sftp.scandir(folder):
        if entry.filename not in {".", ".."}:
            yield str(entry.filename), entry.attrs


async def _is_full(sftp: Sftp, folder: str, wanted: int) -> bool:
    """The protocol has no word for it before version 6; OpenSSH speaks 3."""
    try:
        found = await sftp.statvfs(folder)
    except asyncssh.SFTPError:
        return False
    return found.bavail * found.frsize <= wanted or found.favail == 0 < found.files


def _is_folder(attrs: SFTPAttrs) -> bool:
    return stat.S_ISDIR(attrs.permissions or 0)


def _parents(name: str) -> Sequence[str]:
    """Every folder above the object, the root as an empty name, from the top."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]


def _info(name: str, attrs: SFTPAttrs) -> ObjectInfo:
    return ObjectInfo(name, attrs.size or 0, dt.datetime.fromtimestamp(attrs.mtime or 0, UTC))
