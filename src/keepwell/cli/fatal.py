"""An end that PostgreSQL cannot mistake for the end of the log.

A restore_command that exits with a plain code other than 0 says: there is no such segment, so the log ends here; and the
server becomes usable with what it has. That must never happen because a store did not answer. When the command ends by
a signal, the server stops with an error instead, and its recovery can be tried again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from typing import NoReturn

LOUD = signal.SIGUSR1
"""Ends a process and leaves no core file. After SIGTERM the server would stop without a word."""
END_OF_LOG = 1


def never_mistaken(args: list[str]) -> int:
    """Runs `wal fetch`; returns 0, or END_OF_LOG where that is the answer."""
    try:
        from keepwell.cli.program import run

        code = run(args)
    except BaseException:  # a program that is not even installed whole must not look like the end of the log
        with contextlib.suppress(Exception):
            traceback.print_exc()
        end_by_signal()
    if code and not (code == END_OF_LOG and _told):
        end_by_signal()
    return code


_told: list[bool] = []


def end_of_log() -> int:
    """The exit code that says so; any other way to end with it is a failure."""
    _told.append(True)
    return END_OF_LOG


def end_by_signal() -> NoReturn:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    signal.signal(LOUD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {LOUD})
    os.kill(os.getpid(), LOUD)
    # Should the signal ever not have ended us: a shell's code for it, which PostgreSQL takes for a signal, too.
    os._exit(128 + LOUD)
