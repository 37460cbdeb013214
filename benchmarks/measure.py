"""One command, measured: wall time, and the peak memory of its whole process tree."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

INTERVAL = 0.2


@dataclass(frozen=True)
class Measured:
    seconds: float
    peak: int
    """Bytes: the proportional set sizes of all processes of the tree, added at one moment; the highest such sum."""


def run(script: str, env: dict[str, str], log: Path) -> Measured:
    """Runs a bash script to its end. SystemExit with the end of what it said, where it fails.

    What other work left to be written is written first, so that nobody pays for his predecessor.
    """
    os.sync()
    with log.open("ab") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env
        )
        watch = _Watch(process.pid)
        watch.start()
        try:
            code = process.wait()
            seconds = time.perf_counter() - begin
        finally:
            watch.stop()
            if process.poll() is None:  # interrupted: nothing that was started here stays behind
                for left in [*psutil.Process(process.pid).children(recursive=True), process]:
                    left.terminate()
    if code:
        said = log.read_text(errors="replace")[-2000:]
        raise SystemExit(f"this failed with {code}:\n  {script}\n{said}")
    return Measured(seconds, watch.peak)


def size_of(folder: Path) -> int:
    """Bytes of all files below the folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


class _Watch(threading.Thread):
    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._root = psutil.Process(pid)
        self._over = threading.Event()

    def stop(self) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.is_set():
            try:
                tree = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            self.peak = max(self.peak, sum(map(_memory, tree)))
            self._over.wait(INTERVAL)


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return 0  # it ended between being listed and being asked
