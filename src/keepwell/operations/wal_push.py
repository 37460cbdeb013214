"""`archive_command`: a segment that the server has finished goes into the vault, and the next ones with it."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from keepwell.core import walnote, zstd
from keepwell.core.errors import KeepwellError, SourceError, UsageError
from keepwell.core.streams import Context, Json
from keepwell.core.wal import is_segment
from keepwell.operations.opening import open_vault
from keepwell.operations.wal_sources import physical_source, read_segment_head, system_of
from keepwell.policy.load import LoadedPolicy
from keepwell.vault.wal import WalArchive

_AHEAD, _AHEAD_SECONDS = 256, 10.0
_SIDE_BY_SIDE = 3
_PART = 64 << 20
"""Larger segments are put in parts of so many bytes, for the sake of memory."""


@dataclass(frozen=True)
class PushRequest:
    path: Path
    """`%p`"""
    source: str | None = None
    environment: str | None = None
    caller: tuple[str, ...] = ()
    """Of `core.walnote`: for it is noted what was put ahead. Empty: nothing is put ahead, since nobody would know."""


@dataclass
class PushResult:
    name: str
    stored: bool
    """False: the vault had it already."""
    bytes: int
    ahead: list[str] = field(default_factory=list)
    """Further files that are in the vault now."""
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def json(self) -> dict[str, Json]:
        return {
            "name": self.name,
            "stored": self.stored,
            "bytes": self.bytes,
            "ahead": self.ahead,
            "remarks": self.remarks,
            "seconds": round(self.seconds, 3),
        }


def push(loaded: LoadedPolicy, request: PushRequest, context: Context) -> PushResult:
    """Returns once the vault has the file for good.

    Raises UsageError, SourceError (no such file, not a segment), WalConflict where the vault has other bytes under the name,
    Damaged, the StoreError and VaultKeyError families.
    """
    began = context.clock.monotonic()
    path = request.path
    if not walnote.is_log_name(path.name):
        raise UsageError(
            f"{path.name} is not the name of a file of the write-ahead log",
            hint="In archive_command write: keepwell wal push %p --source NAME",
        )
    environment, source = physical_source(loaded, request.environment, request.source)
    pusher = _Pusher(loaded, environment, source, context)
    stored, size, state = pusher.put(path)
    result = PushResult(path.name, stored, size)
    done = {path.name: state}
    if request.caller:
        _ahead(pusher, path, done, result, context)
        _note(request.caller, done, result)
    result.seconds = context.clock.monotonic() - began
    return result


class _Pusher:
    def __init__(self, loaded: LoadedPolicy, environment: str, source: str, context: Context) -> None:
        self._vault, self._environment, self._source = open_vault(loaded), environment, source
        self._level, self._clock = loaded.policy.vault.compression or zstd.OWN, context.clock
        self._archives: dict[str, WalArchive] = {}
        self._lock = threading.Lock()
        self._own = threading.local()

    def put(self, path: Path) -> tuple[bool, int, str]:
        """Whether it was stored, its bytes, and the state of the file that was read."""
        try:
            state = walnote.state_of(str(path))
            stored, size = self._segment(path) if is_segment(path.name) else self._file(path)
            if walnote.state_of(str(path)) != state:
                raise SourceError(
                    f"{path} changed while it was read", hint="Only files that the server has finished can be stored."
                )
        except OSError as error:
            raise SourceError(
                f"{path} cannot be read: {error.strerror}",
                hint="archive_command runs in the server's data directory, as the server's user; call it there.",
            ) from None
        return stored, size, state

    def _segment(self, path: Path) -> tuple[bool, int]:
        stored, archive, position = False, None, 0
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            while block := self._read(file, min(size, _PART)):
                if archive is None:
                    head = read_segment_head(path.name, bytes(block[:64]))
                    if size != head.segment_size:
                        raise SourceError(
                            f"{path} has {size} bytes, and segments of this server have {head.segment_size}",
                            hint="It is cut short, or not finished. Nothing was stored.",
                        )
                    archive, position = self._archive(head.system), head.position
                stored |= archive.put(
                    int(path.name[:8], 16), position, block, segment_size=size, time=self._clock.now()
                )
                position += len(block)
        if archive is None:
            raise SourceError(f"{path} is empty", hint="It is no finished segment of the log.")
        return stored, size

    def _read(self, file: io.FileIO, most: int) -> memoryview:
        """The next bytes, into a buffer that this thread uses again and again: fresh memory costs more than the reading."""
        buffer = self._own.__dict__.get("buffer", b"")
        if len(buffer) < most:
            buffer = self._own.buffer = bytearray(most)
        view, filled = memoryview(buffer), 0
        while filled < most and (count := file.readinto(view[filled:most])):
            filled += count
        return view[:filled]

    def _file(self, path: Path) -> tuple[bool, int]:
        data = path.read_bytes()
        archive = self._archive(system_of(path.parent))
        return archive.put_file(path.name, data, time=self._clock.now()), len(data)

    def _archive(self, system: str) -> WalArchive:
        with self._lock:
            if system not in self._archives:
                self._archives[system] = self._vault.wal(self._environment, self._source, system, level=self._level)
            return self._archives[system]


def ready(path: Path) -> list[Path]:
    """What the server has finished besides `path`, in the order in which it will hand it over: histories first."""
    folder = path.parent
    try:
        names = [entry.name for entry in (folder / "archive_status").iterdir()]
    except OSError:  # not called by a server
        return []
    waiting = [name.removesuffix(".ready") for name in names if name.endswith(".ready")]
    known = sorted(
        (name for name in waiting if walnote.is_log_name(name)), key=lambda n: (not n.endswith(".history"), n)
    )
    return [folder / name for name in known if name != path.name]


def _ahead(pusher: _Pusher, path: Path, done: dict[str, str], result: PushResult, context: Context) -> None:
    """What fails here is not told to the server: its turn comes, and then it is an error."""
    waiting = ready(path)[:_AHEAD]
    if not waiting:
        return
    until = context.clock.monotonic() + _AHEAD_SECONDS
    failed = threading.Event()

    def put(one: Path) -> str | None:
        if failed.is_set() or context.cancelled() or context.clock.monotonic() > until:
            return None
        try:
            return pusher.put(one)[2]
        except KeepwellError:
            failed.set()
            raise

    with ThreadPoolExecutor(min(_SIDE_BY_SIDE, max(1, context.jobs)), "wal-push") as pool:
        outcomes: list[tuple[Path, Future[str | None]]] = []
        for one in waiting:
            outcomes.append((one, pool.submit(put, one)))
            if one.suffix == ".history":  # it must be there before the log that it explains
                wait([outcomes[-1][1]])
        for one, outcome in outcomes:
            try:
                state = outcome.result()
            except KeepwellError as error:
                result.remarks.append(f"{one.name} was tried ahead and not stored: {error.message}")
                continue
            if state is not None:
                done[one.name] = state
                result.ahead.append(one.name)


def _note(caller: Sequence[str], done: dict[str, str], result: PushResult) -> None:
    place = walnote.folder("push", list(caller), make=True)
    try:
        if place is None:
            raise PermissionError(0, "the cache folder cannot be used")
        walnote.write(place, list(caller), done)
    except OSError as error:
        if result.ahead:
            result.remarks.append(f"what is done cannot be noted ({error.strerror}), so it will be looked at once more")
