"""One run of the program: its global options, and what commands need to call operations."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from keepwell.cli.output import Output

if TYPE_CHECKING:
    from keepwell.core.streams import Context
    from keepwell.policy.load import LoadedPolicy

STOPPED = threading.Event()
"""Set by the first signal that asks to stop: workers in other threads look at it."""


@dataclass
class Session:
    policy: Path | None = None
    key_file: Path | None = None
    output: Output = field(default_factory=Output)
    args: list[str] = field(default_factory=list)
    """The command line as it was given."""

    def load(self) -> LoadedPolicy:
        """The policy; --key-file takes the place of the key that it names. Raises PolicyError."""
        from keepwell.policy.load import find, load
        from keepwell.policy.models import VaultKey

        loaded = load(find(explicit=self.policy))
        if self.key_file is None:
            return loaded
        key = VaultKey(file=self.key_file.expanduser().absolute())
        vault = loaded.policy.vault.model_copy(update={"key": key})
        return dataclasses.replace(loaded, policy=loaded.policy.model_copy(update={"vault": vault}))

    @contextlib.contextmanager
    def context(self, *, narrate: bool = False) -> Iterator[Context]:
        """For one operation, with progress on standard error.

        `narrate` shows the chapters of a story (notes that begin with a number) also where nobody watches.
        """
        import platformdirs

        from keepwell.cli.bars import Bars
        from keepwell.core.streams import Context

        with Bars(self.output, narrate=narrate) as bars:
            yield Context(
                progress=bars,
                jobs=max(2, min(4, os.cpu_count() or 2)),
                cancelled=STOPPED.is_set,
                cache=platformdirs.user_cache_path("keepwell"),
            )


def catch_signals() -> None:
    """SIGTERM (a service manager) and SIGHUP (a closed terminal) end a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and shells ask for that
            signal.signal(number, _stop)


def _stop(_number: int, _frame: FrameType | None) -> None:
    STOPPED.set()
    raise KeyboardInterrupt
