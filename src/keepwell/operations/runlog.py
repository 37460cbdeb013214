"""What a run says, kept line by line on this machine and brought into the vault at its end.

What a run leaves that was killed, or whose log the store did not take, is brought by the next run of the machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from keepwell.core.clock import Clock, iso
from keepwell.core.errors import KeepwellError, ObjectExists
from keepwell.core.progress import Progress
from keepwell.core.secrets import redacted
from keepwell.vault import runlogs
from keepwell.vault.vault import Vault

_MOST = 5000
"""Lines; of what comes after, warnings are still kept, up to twice as many."""
_BROUGHT = 20
"""Logs that were left behind, at most, that one run brings."""


class RunLog:
    """Progress that writes down what is said, without secrets, and passes everything on to `inner`."""

    def __init__(self, inner: Progress, clock: Clock, folder: Path | None, name: str) -> None:
        self.inner, self.name = inner, name
        self._clock, self._lines, self._left_out = clock, [], 0
        self._tasks: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()
        self._file: IO[str] | None = None
        self._place: Path | None = None
        if folder is not None:
            with contextlib.suppress(OSError):  # then a log that the store does not take is lost, as it is told
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._place = folder / name.removeprefix(runlogs.PREFIX).replace("/", "_")
                self._file = _locked(self._place)

    _lines: list[str]

    def line(self, level: str, event: str, **more: Any) -> None:
        now = self._clock.now()
        text = json.dumps(
            redacted({"time": f"{iso(now)[:-1]}.{now.microsecond // 1000:03d}Z", "level": level, "event": event} | more)
        )
        with self._lock:
            if len(self._lines) >= (_MOST if level == "info" else 2 * _MOST):
                self._left_out += 1
                return
            self._keep(text)

    def _keep(self, text: str) -> None:
        self._lines.append(text)
        if self._file is not None:
            with contextlib.suppress(OSError, ValueError):  # a full disk: the lines are in memory, too
                self._file.write(text + "\n")
                self._file.flush()

    def begin(self, task: str, total: int | None = None, unit: str = "bytes") -> None:
        self.line("info", "phase begins", task=task, total=total, unit=unit)
        self._tasks[task] = (self._clock.monotonic(), 0)
        self.inner.begin(task, total, unit)

    def advance(self, task: str, amount: int = 1) -> None:
        with self._lock:
            if (known := self._tasks.get(task)) is not None:
                self._tasks[task] = (known[0], known[1] + amount)
        self.inner.advance(task, amount)

    def end(self, task: str) -> None:
        began, done = self._tasks.pop(task, (None, 0))
        if began is not None:
            self.line("info", "phase ended", task=task, done=done, seconds=round(self._clock.monotonic() - began, 3))
        self.inner.end(task)

    def note(self, text: str) -> None:
        self.line("info", text)
        self.inner.note(text)

    def warn(self, text: str) -> None:
        self.line("warning", text)
        self.inner.warn(text)

    def finish(self, vault: Vault) -> None:
        """Into the vault. Raises StoreError: then the lines stay on this machine for the next run."""
        with self._lock:
            left_out, lines = self._left_out, list(self._lines)
        if left_out:
            lines.insert(-1, json.dumps({"level": "warning", "event": f"{left_out} lines were left out"}))
        try:
            _put(vault, self.name, "\n".join(lines) + "\n")
        except KeepwellError:
            self._close()
            raise
        if self._place is not None:
            with contextlib.suppress(OSError):
                self._place.unlink()
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def bring_left(vault: Vault, folder: Path, progress: Progress) -> None:
    """The logs of runs that died here, or that the store did not take. Raises nothing."""
    for place in _left(folder):
        name = runlogs.PREFIX + place.name.replace("_", "/", 1)
        try:
            with place.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                text = file.read()
                if runlogs.parse(name) is not None and text:
                    _put(vault, name, text)
                place.unlink()
        except (BlockingIOError, FileNotFoundError):  # its run lives, or another one brings it
            continue
        except OSError as error:
            progress.warn(f"the log of an earlier run, {place}, was not brought into the vault: {error.strerror}")
        except KeepwellError as error:
            progress.warn(f"the log of an earlier run, {place}, was not brought into the vault: {error.message}")
            return


def _left(folder: Path) -> Iterator[Path]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".jsonl"))
    except OSError:
        return
    for name in names[:_BROUGHT]:
        yield folder / name


def _put(vault: Vault, name: str, text: str) -> None:
    try:
        vault.store.put(name, runlogs.encode(vault.keyring, name, text))
    except ObjectExists:  # brought by a process that died before it could clear it here
        return
    vault.store.flush()


def _locked(place: Path) -> IO[str]:
    """Held for as long as the process lives, so that nobody takes it for left behind."""
    handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):  # a network share without locks
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return os.fdopen(handle, "w", encoding="utf-8")
