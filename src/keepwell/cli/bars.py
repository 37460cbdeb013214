"""Progress as Rich shows it: nothing for the first two seconds, and nothing where nobody watches."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from keepwell.cli.output import Output
from keepwell.core.units import show_size

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

_PATIENCE = 2.0
"""Seconds: shorter work needs no bar."""


@dataclass
class _Task:
    total: int | None
    unit: str
    done: int = 0
    bar: Any = None


class Bars:
    """Fulfils `core.progress.Progress`, from any thread. Use as a context manager."""

    def __init__(self, output: Output, *, narrate: bool = False) -> None:
        self._output, self._narrate = output, narrate
        self._last = ""
        self._tasks: dict[str, _Task] = {}
        self._lock = threading.RLock()
        self._live: RichProgress | None = None
        self._timer: threading.Timer | None = None
        self._closed = output.quiet or not sys.stderr.isatty()

    def __enter__(self) -> Self:
        self._output.bars = self
        return self

    def __exit__(self, *_: object) -> None:
        self._output.bars = None
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
            live, self._live = self._live, None
        if live is not None:
            live.stop()

    def begin(self, task: str, total: int | None = None, unit: str = "bytes") -> None:
        with self._lock:
            self._tasks[task] = _Task(total, unit)
            if self._live is not None:
                self._show(task)
            elif self._timer is None and not self._closed:
                self._timer = threading.Timer(_PATIENCE, self._start)
                self._timer.daemon = True
                self._timer.start()

    def advance(self, task: str, amount: int = 1) -> None:
        with self._lock:
            if (entry := self._tasks.get(task)) is None:
                return
            entry.done += amount
            if self._live is not None:
                self._live.update(entry.bar, completed=entry.done, amount=_amount(entry))

    def end(self, task: str) -> None:
        with self._lock:
            entry = self._tasks.pop(task, None)
            if entry is not None and self._live is not None:
                self._live.remove_task(entry.bar)

    def note(self, text: str) -> None:
        if self._narrate and text[:1].isdigit():
            self._output.story(text)
        elif text != self._last:
            self._output.note(text)
        self._last = text

    def warn(self, text: str) -> None:
        self._output.warn(text)

    def print(self, text: str) -> bool:
        """A line above the bars; False where there are none."""
        with self._lock:
            if self._live is None:
                return False
            from rich.text import Text

            self._live.console.print(Text.from_ansi(text), soft_wrap=True)
            return True

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        with self._lock:
            if self._closed:
                return
            self._live = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[amount]}", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True, no_color=self._output.style("x", "bold", sys.stderr) == "x"),
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            for task in self._tasks:
                self._show(task)
            self._live.start()

    def _show(self, task: str) -> None:
        assert self._live is not None
        entry = self._tasks[task]
        entry.bar = self._live.add_task(task, total=entry.total, completed=entry.done, amount=_amount(entry))


def _amount(task: _Task) -> str:
    if task.unit == "bytes":
        return show_size(task.done) + (f" of {show_size(task.total)}" if task.total else "")
    return f"{task.done:,}" + (f" of {task.total:,}" if task.total else "") + f" {task.unit}"
