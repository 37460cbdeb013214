"""Around a run: it is known that it began and how it ended, signs of life go out, and a failure is told at once.

with watched(loaded, context, "backup", "production") as run:
result = backup(loaded, request, context)
run.ended(ending_of_backup(result))
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import platform
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from keepwell.core.clock import iso
from keepwell.core.errors import Busy, Interrupted, KeepwellError, PolicyError, UsageError
from keepwell.core.streams import Context
from keepwell.core.units import show_duration
from keepwell.operations.record import recorded
from keepwell.policy.load import LoadedPolicy
from keepwell.watch.book import Book, BookError, Pages, place
from keepwell.watch.heartbeat import Sign, beat
from keepwell.watch.letters import of_success, size_line

if TYPE_CHECKING:  # a backup begins without loading what proves and rehearses
    from keepwell.operations.backup import BackupResult
    from keepwell.operations.check import CheckResult
    from keepwell.operations.copy import CopyResult
    from keepwell.operations.drill import DrillResult
    from keepwell.operations.verify import VerifyResult
    from keepwell.watch.look import Watcher

_NO_RUN = (UsageError, PolicyError, Busy, Interrupted)
"""Such a run never was: it was asked for wrongly, another one is at it, or a person stopped it."""


@dataclass(frozen=True)
class Ending:
    """How a run ended. `kind` is the class of its error, as in docs/reference/exit-codes.md."""

    outcome: Literal["done", "warnings", "failed"]
    message: str = ""
    hint: str = ""
    kind: str = ""
    lines: Mapping[str, str] = field(default_factory=dict)
    """What a person would want to read of a success."""


@dataclass
class Run:
    verb: str
    environment: str | None
    ident: str
    ending: Ending = Ending("done")

    def ended(self, ending: Ending) -> None:
        self.ending = ending


def ending_of_backup(result: BackupResult) -> Ending:
    failed = [f"{name}: {source.error}" for name, source in result.sources.items() if source.status == "failed"]
    if failed:
        return Ending("warnings", "; ".join(failed), kind="SourceError")
    lines = {
        "Backup": f"{result.backup} ({result.tier})",
        "Size": size_line(result.read, result.stored),
        "Took": show_duration(result.seconds),
    }
    return Ending("warnings" if result.warnings else "done", "; ".join(result.warnings), lines=lines)


def ending_of_verify(result: VerifyResult) -> Ending:
    if not result.passed:
        wrong = [f"{f.what}: {f.problem}" for source in result.sources.values() for f in source.findings]
        return Ending(
            "failed",
            f"{result.backup} is not what was backed up: {'; '.join(wrong[:3])}",
            f"Do not rely on it. Take and prove another: keepwell backup {result.environment}",
            "ProofFailed",
        )
    took = show_duration(result.seconds.get("total", 0))
    return Ending(
        "done", lines={"Proven" if result.proven else "Passed": result.backup, "Level": result.level, "Took": took}
    )


def ending_of_drill(result: DrillResult) -> Ending:
    took = show_duration(result.recovery.total_seconds())
    if not result.passed:
        return Ending(
            "failed",
            f"the recovery that was rehearsed with {result.proof.backup} failed: {'; '.join(result.failures[:3])}",
            "Mend it before the day comes, and rehearse again.",
            "" if result.proof.passed else "ProofFailed",
        )
    lines = {"Recovered": result.proof.backup, "Took": took, "At risk": show_duration(result.at_risk.total_seconds())}
    return Ending("warnings" if result.misses else "done", "; ".join(result.misses), lines=lines)


def ending_of_check(result: CheckResult) -> Ending:
    if result.passed:
        return Ending("done", lines={"Whole": f"{result.report.backups} backups, {result.report.packs} packs"})
    wrong = "; ".join(f"{finding.what} {finding.problem}" for finding in result.report.findings[:3])
    cost = f"; {len(result.affected)} backups cannot be restored whole" if result.affected else ""
    return Ending("failed", wrong + cost, "Put it back from a copy: keepwell check --repair", "Damaged")


def ending_of_copy(result: CopyResult) -> Ending:
    wrong = [
        f"{name}: {outcome.error or ', '.join(outcome.report.failed)}"
        for name, outcome in result.copies.items()
        if not outcome.clean
    ]
    if wrong:
        return Ending("failed", "; ".join(wrong), "Bring it up to date: keepwell copy", "Copy")
    return Ending("done", lines={name: f"{len(o.report.backups)} backups copied" for name, o in result.copies.items()})


@contextlib.contextmanager
def watched(
    loaded: LoadedPolicy,
    context: Context,
    verb: str,
    environment: str | None = None,
    *,
    will_retry: bool = False,
    watcher: Watcher | None = None,
    recording: bool = True,
) -> Iterator[Run]:
    """Around one run of `backup`, `verify`, `prune`, `check`, `copy` or `drill`. Lets every exception through.

    `environment`: of a copy its name. The run is recorded (operations/record.py) unless `recording` is False: for what only looks.
    `will_retry`: a failure is only noted, since the engine tries again; nobody is told, and no sign of failure goes out.
    That the watch itself does not work never fails a run: it is a warning of its progress.
    """
    run = Run(verb, environment, str(uuid.uuid4()))
    number = _begin(loaded, context, run)
    began = context.clock.monotonic()
    error: BaseException | None = None
    try:
        if not recording:
            yield run
        else:
            concerned = None if verb == "copy" else environment
            with recorded(loaded, context, verb, concerned, run=run.ident) as record:
                yield run
                end = run.ending
                record.ended(end.outcome, end.message, hint=end.hint, kind=end.kind, details=end.lines)
    except BaseException as problem:
        error = problem
        raise
    finally:
        if number is not None:
            ending = _ending(run, error)
            seconds = context.clock.monotonic() - began
            with _never_failing(context):
                _end(loaded, context, run, number, ending, seconds, error, will_retry=will_retry, watcher=watcher)


def _begin(loaded: LoadedPolicy, context: Context, run: Run) -> int | None:
    import psutil  # type: ignore[import-untyped]  # it has no types

    book, now = Book(place(loaded)), context.clock.now()
    process = {"host": platform.node(), "pid": os.getpid(), "born": psutil.Process().create_time()}
    number: int | None = None
    with _never_failing(context):
        with book.turn() as pages:
            number = pages.begin_run(run.verb, run.environment, now, {"outcome": "running", "id": run.ident} | process)
        _beat(loaded, book, context, run, "start", f"{run.verb} of {run.environment or 'all'} has begun")
    return number


def _ending(run: Run, error: BaseException | None) -> Ending | None:
    """None: it never was."""
    if error is None:
        return run.ending
    if isinstance(error, (KeyboardInterrupt, GeneratorExit, SystemExit, *_NO_RUN)):
        return None
    if isinstance(error, KeepwellError):
        return Ending("failed", error.message, error.hint, type(error).__name__)
    return Ending(
        "failed", f"unexpected {type(error).__name__}", "This is a fault in keepwell: please report it.", "Unexpected"
    )


def _end(
    loaded: LoadedPolicy,
    context: Context,
    run: Run,
    number: int,
    ending: Ending | None,
    seconds: float,
    error: BaseException | None,
    *,
    will_retry: bool,
    watcher: Watcher | None,
) -> None:
    book, now = Book(place(loaded)), context.clock.now()
    with book.turn() as pages:
        if ending is None or (ending.outcome == "failed" and will_retry):
            pages.drop_run(number)
            if ending is None:
                return
            pages.log(now, {"kind": "retried", "run": run.verb, "environment": run.environment, "text": ending.message})
            return
        pages.end_run(number, _document(run, ending, now, seconds, error))
        if ending.outcome == "done" and loaded.policy.notify:
            from keepwell.watch.notify import post_success

            what = f"{run.verb} of {run.environment} is done" if run.environment else f"{run.verb} is done"
            concerned = None if run.verb == "copy" else run.environment
            letter = of_success(loaded.policy.project, what, ending.lines, concerned)
            post_success(pages, letter, loaded.policy, now)
        calm = _is_calm(pages)
    sign: Sign = "done" if ending.outcome == "done" else "fail"
    _beat(loaded, book, context, run, sign, "\n".join([*ending.lines.values(), ending.message]).strip() or sign)
    if calm and not loaded.policy.notify:
        return
    from keepwell.watch.look import Watcher

    watcher = watcher or Watcher(loaded)
    if loaded.policy.notify:
        result = watcher.look(context)
        for problem in result.problems:
            context.progress.warn(problem)
    else:
        watcher.glance(context, error, works=error is None)


def _is_calm(pages: Pages) -> bool:
    """Whether a glance at the runs would find nothing wrong, and nothing that is over: it costs a tenth of a second."""
    fine = all(document.get("outcome") == "done" for *_, document in pages.runs())
    return fine and not (pages.alerts() or pages.notes("channel:") or pages.notes("heartbeat:"))


def _document(
    run: Run, ending: Ending, now: dt.datetime, seconds: float, error: BaseException | None
) -> dict[str, Any]:
    return {
        "id": run.ident,
        "outcome": ending.outcome,
        "ended": iso(now),
        "seconds": round(seconds, 3),
        "message": ending.message,
        "hint": ending.hint,
        "kind": ending.kind,
        "exit_code": getattr(error, "exit_code", 1) if error else 0,
    }


def _beat(loaded: LoadedPolicy, book: Book, context: Context, run: Run, sign: Sign, body: str) -> None:
    if run.verb != "backup" or run.environment not in loaded.policy.environments:
        return
    ref = loaded.policy.environments[run.environment].watch.heartbeat
    error = beat(loaded, book, ref, sign, body, of=run.environment, now=context.clock.now(), run=run.ident)
    if error:
        context.progress.warn(error)


@contextlib.contextmanager
def _never_failing(context: Context) -> Iterator[None]:
    try:
        yield
    except BookError as error:
        context.progress.warn(f"{error.message} ({error.hint})")
