"""Hands log to a server that recovers, from this process: the server and its user need neither keys nor policy."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from keepwell.core.errors import KeepwellError
from keepwell.core.wal import is_segment, parse_segment, segment_name
from keepwell.sources.physical.directory import Owner
from keepwell.sources.physical.target import LogMissing, LogSource

_AHEAD = 2
_POLL = 0.2

# PostgreSQL takes an exit status above 125 for a failure that ends the recovery, and a lower one for the end of the log.
_SCRIPT = """#!/bin/sh
cd {folder} || exit 255
printf '%s\\n' "$1" > ask || exit 255
read -r answer < answer || exit 255
case "$answer" in
  here) exit 0 ;;
  end) exit 1 ;;
  *) exit 255 ;;
esac
"""


class Feeder:
    """For one `with` block: `command` is the restore_command. The server asks through one pipe and is answered through
    another, one file at a time, as PostgreSQL does it; the next segments are read meanwhile.
    """

    def __init__(self, folder: Path, data: Path, log: LogSource, owner: Owner | None) -> None:
        self._folder, self._data, self._log, self._owner = folder, data, log, owner
        self.error: BaseException | None = None
        """Why the log could not be given; then the server has ended its recovery with an error."""
        self.given = 0
        """Bytes."""
        self._stop = threading.Event()
        self._ahead: dict[str, Future[bytes | None]] = {}
        self._thread = threading.Thread(target=self._serve, name="feeder", daemon=True)

    @property
    def command(self) -> str:
        return f"/bin/sh {shlex.quote(str(self._folder / 'fetch'))} %f"

    def __enter__(self) -> Self:
        self._folder.mkdir(mode=0o711)
        (self._folder / "fetch").write_text(_SCRIPT.format(folder=shlex.quote(str(self._folder))))
        (self._folder / "fetch").chmod(0o644)
        for name in ("ask", "answer"):
            os.mkfifo(self._folder / name, 0o600)
            if self._owner:
                os.chown(self._folder / name, self._owner.user, self._owner.group)
        # For both directions: then neither end ever sees the other one close.
        self._ask = os.open(self._folder / "ask", os.O_RDWR | os.O_CLOEXEC)
        self._answer = os.open(self._folder / "answer", os.O_RDWR | os.O_CLOEXEC)
        self._pool = ThreadPoolExecutor(_AHEAD, "log")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)
        os.close(self._ask)
        os.close(self._answer)

    def _serve(self) -> None:
        asked = b""
        while not self._stop.is_set():
            if not select.select([self._ask], [], [], _POLL)[0]:
                continue
            asked += os.read(self._ask, 4096)
            *names, asked = asked.split(b"\n")
            for name in names:
                os.write(self._answer, self._give(os.fsdecode(name)) + b"\n")

    def _give(self, name: str) -> bytes:
        if self.error:
            return b"failed"
        try:
            data = self._take(name)
            if data is None:
                return b"end"
            self._put(data)
        except LogMissing as error:
            if (self._data / "pg_wal" / name).exists():
                return b"end"  # then PostgreSQL takes the one that came with the backup
            self.error = error
            return b"failed"
        except (KeepwellError, OSError, ValueError) as error:
            self.error = error
            return b"failed"
        self.given += len(data)
        return b"here"

    def _take(self, name: str) -> bytes | None:
        future = self._ahead.pop(name, None)
        if not is_segment(name):
            return self._log(name)
        data = future.result() if future else self._log(name)
        if data:
            timeline, start = parse_segment(name, len(data))
            wanted = [segment_name(timeline, start + step * len(data), len(data)) for step in range(1, _AHEAD + 1)]
            self._ahead = {
                following: self._ahead.get(following) or self._pool.submit(self._log, following) for following in wanted
            }
        return data

    def _put(self, data: bytes) -> None:
        """PostgreSQL always asks for a file of this name, whatever it becomes."""
        path = self._data / "pg_wal" / "RECOVERYXLOG"
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if self._owner:
                os.fchown(handle, self._owner.user, self._owner.group)
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
        finally:
            os.close(handle)
