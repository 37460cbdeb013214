"""Who called: a command line, or a schedule. Set once where a run comes from, read where it is recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Caller:
    by: str = "program"
    """`command`, `schedule`, …"""
    command: tuple[str, ...] = ()
    """The command's arguments, or what names the occasion: `("backup/production/20261122T020000Z",)`."""


_NOBODY = Caller()
_CALLER: ContextVar[Caller] = ContextVar("caller", default=_NOBODY)


def caller() -> Caller:
    return _CALLER.get()


@contextlib.contextmanager
def called(by: str, command: Sequence[str]) -> Iterator[None]:
    """What `caller` says in this thread while the block lasts: `called("schedule", [job.ident])`."""
    token = _CALLER.set(Caller(by, tuple(command)))
    try:
        yield
    finally:
        _CALLER.reset(token)
