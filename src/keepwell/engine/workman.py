"""Doing the runs that the queue hands out: again where that may help, and never against another worker."""

from __future__ import annotations

import ctypes
import dataclasses
import datetime as dt
import enum
import gc
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from keepwell.core import logs
from keepwell.core.caller import called
from keepwell.core.clock import from_iso, iso
from keepwell.core.errors import (
    Busy,
    KeepwellError,
    PolicyError,
    ProofFailed,
    UnsupportedFormat,
    UsageError,
    VaultKeyError,
)
from keepwell.core.streams import Context
from keepwell.engine import execute
from keepwell.engine.durable import Document, Stopped
from keepwell.engine.jobs import Job
from keepwell.engine.ledger import EngineError, Ledger, RunLost
from keepwell.policy.load import LoadedPolicy
from keepwell.vault.session import Permit

_LASTING = (UsageError, PolicyError, ProofFailed, VaultKeyError, UnsupportedFormat)
"""Trying again changes nothing: somebody must mend it."""

_LOG = logs.get("engine")
_TRIM: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)


class _Again(enum.Enum):
    """Why an attempt was not the last."""

    FAILED = enum.auto()
    BUSY = enum.auto()


@dataclass(frozen=True)
class Patience:
    """How often a failed run is tried again, and after how long."""

    retries: int = 3
    first: float = 60.0
    most: float = 3600.0

    def wait(self, attempt: int) -> float:
        """Seconds before attempt `attempt + 1`: each wait four times the one before."""
        return float(min(self.first * 4 ** (attempt - 1), self.most))


@dataclass
class Workman:
    """Does one run a call, in whatever thread the queue calls it from."""

    policy: Callable[[], LoadedPolicy]
    """The policy as it is now: it may be read anew between two runs."""
    context: Context
    ledger: Ledger
    worker: str
    enqueue: Callable[[Job], None]
    patience: Callable[[], Patience] = Patience
    stopping: threading.Event = field(default_factory=threading.Event)
    """The process ends."""
    lost: threading.Event = field(default_factory=threading.Event)
    """This worker could give no sign of life for so long that others may have its runs."""

    def __call__(self, ident: str, document: Document) -> Document:
        """How the run ended. Raises Stopped where another process goes on with it."""
        job = read(document)
        with logs.bound(job=ident), called("schedule", [ident]):
            attempt = 1
            while True:
                outcome = self._attempt(job, attempt)
                if not isinstance(outcome, _Again):
                    return outcome
                busy = outcome is _Again.BUSY
                patience = self.patience()
                # Another one is at it, on this machine or as a prune: that is no failure, and it passes.
                wait = patience.first if busy else patience.wait(attempt)
                attempt += not busy
                _LOG.info("tries again", seconds=wait, attempt=attempt)
                if self._wait(wait):
                    raise Stopped

    def _attempt(self, job: Job, attempt: int) -> Document | _Again:
        if self._gone():
            raise Stopped
        loaded, again = self.policy(), attempt <= self.patience().retries
        began = self.context.clock.monotonic()
        _LOG.info("begins", due=iso(job.due), attempt=attempt)
        context = dataclasses.replace(
            self.context, progress=logs.Logged(_LOG, self.context.progress), cancelled=self._gone
        )
        try:
            outcome = execute.run(job, loaded, context, permit=self._permit(job), will_retry=again)
            for follower in execute.after(job, loaded, context.clock.now()):
                self.enqueue(follower)
        except Exception as error:
            return self._failed(error, again=again)
        finally:
            tidy()
        seconds = round(self.context.clock.monotonic() - began, 3)
        ended = {key: value for key, value in outcome.json().items() if key != "result"}
        (_LOG.info if outcome.result == "done" else _LOG.warning)(outcome.result, seconds=seconds, **ended)
        return outcome.json() | {"attempts": attempt}

    def _failed(self, error: Exception, *, again: bool) -> Document | _Again:
        if isinstance(error, RunLost):
            _LOG.warning("taken over", exc_info=error)
            raise Stopped from None
        if self._gone():
            _LOG.info("interrupted: it will be done again")
            raise Stopped from None
        if isinstance(error, Busy):
            _LOG.warning("another one is at it", exc_info=error)
            return _Again.BUSY
        if again and not isinstance(error, _LASTING):
            _LOG.warning("failed", exc_info=error)
            return _Again.FAILED
        if isinstance(error, UsageError):
            _LOG.warning("nothing to do", exc_info=error)
        else:
            _LOG.error("failed for good", exc_info=error)
        return told(error)

    def _permit(self, job: Job) -> Permit:
        return lambda: self.ledger.permit(job.ident, self.worker)

    def _gone(self) -> bool:
        return self.stopping.is_set() or self.lost.is_set()

    def _wait(self, seconds: float) -> bool:
        """Whether it was cut short."""
        until = self.context.clock.monotonic() + seconds
        while not self._gone() and (left := until - self.context.clock.monotonic()) > 0:
            self.stopping.wait(min(left, 1.0))
        return self._gone()


def tidy() -> None:
    """Gives back what a run held, so that a process of months is as small as one of an hour.

    A backup is a web of objects that name each other, with open folders and the whole index among them: the collector would
    come by itself only after hundreds of runs. And glibc keeps what other threads freed unless it is asked.
    """
    gc.collect()
    if _TRIM is not None:
        _TRIM(0)


def told(error: BaseException) -> Document:
    """A failure as it is kept with the run; never the text of an unknown error, which may hold anything."""
    known = isinstance(error, KeepwellError)
    return {
        "result": "failed",
        "kind": type(error).__name__,
        "message": error.message if isinstance(error, KeepwellError) else f"unexpected {type(error).__name__}",
        "hint": error.hint if isinstance(error, KeepwellError) else "This is a fault in keepwell: please report it.",
    } | ({} if known else {"unexpected": True})


def document(job: Job) -> Document:
    """The job as it stands in the queue: read by every later version of the program."""
    return {"kind": job.kind, "environment": job.environment, "due": iso(job.due)}


def read(given: dict[str, Any]) -> Job:
    due: dt.datetime = from_iso(given["due"])
    return Job(given["kind"], given["environment"], due)


__all__ = ["EngineError", "Patience", "Workman", "document", "read", "told"]
