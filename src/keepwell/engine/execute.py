"""One job, done: the operation that it names, called as the command line calls it."""

from __future__ import annotations

import contextlib
import datetime as dt
from dataclasses import dataclass
from typing import Any

from keepwell.core.clock import UTC
from keepwell.core.errors import KeepwellError, UsageError
from keepwell.core.streams import Context
from keepwell.engine.durable import MOST_TIMES
from keepwell.engine.jobs import Job
from keepwell.policy.load import LoadedPolicy
from keepwell.vault.session import Permit
from keepwell.watch.look import Watcher
from keepwell.watch.runs import (
    Ending,
    Run,
    ending_of_backup,
    ending_of_check,
    ending_of_copy,
    ending_of_drill,
    ending_of_verify,
    watched,
)


class RunGivenUp(KeepwellError):
    pass


@dataclass(frozen=True)
class Outcome:
    """How a job ended that did not raise. `result` is `done`, `warnings` or `failed` (the proof, not the program)."""

    result: str
    message: str = ""
    hint: str = ""
    kind: str = ""
    backup: str = ""
    """The backup that was taken or proven."""
    repeated: bool = False
    """Whether an earlier attempt had done it already."""

    def json(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if value}


def run(
    job: Job,
    loaded: LoadedPolicy,
    context: Context,
    *,
    permit: Permit = contextlib.nullcontext,
    will_retry: bool = False,
    watcher: Watcher | None = None,
) -> Outcome:
    """Does the job. Raises what the operation raises; `will_retry` as in `watched`."""
    with watched(loaded, context, job.kind, job.environment, will_retry=will_retry, watcher=watcher) as watch:
        if job.kind not in _DO:
            raise UsageError(
                f"this keepwell has no runs of the kind {job.kind!r}",
                hint="Another machine with a newer one has put it into the queue: update this one, too.",
            )
        return _DO[job.kind](job, loaded, context, watch, permit)


def given_up(ident: str, loaded: LoadedPolicy, context: Context) -> None:
    """Makes known that a run is not begun any more, as if it had failed. Raises RunGivenUp."""
    kind, *target, _due = ident.split("/")
    with watched(loaded, context, kind, target[0] if target else None):
        raise RunGivenUp(
            f"{ident} was begun {MOST_TIMES} times, and each time its process ended before it did",
            hint="Look why the process ends (memory, a time limit of the service manager), then do it by hand.",
        )


def after(job: Job, loaded: LoadedPolicy, now: dt.datetime) -> list[Job]:
    """What follows a job that is done: after a backup the copies that want to be told.

    Due at the next full minute: backups of many environments at one time make one copy, which begins after the last.
    """
    if job.kind != "backup":
        return []
    minute = now.astimezone(UTC).replace(second=0, microsecond=0) + dt.timedelta(minutes=1)
    return [Job("copy", copy.name, minute) for copy in loaded.policy.copies if copy.after_backup]


def _backup(job: Job, loaded: LoadedPolicy, context: Context, watch: Run, permit: Permit) -> Outcome:
    from keepwell.operations.backup import BackupRequest, backup

    result = backup(loaded, BackupRequest(_named(job), run=job.ident, permit=permit), context)
    return _ended(watch, ending_of_backup(result), result.backup, repeated=result.repeated)


def _verify(job: Job, loaded: LoadedPolicy, context: Context, watch: Run, _permit: Permit) -> Outcome:
    from keepwell.operations.verify import VerifyRequest, verify

    result = verify(loaded, VerifyRequest(_newest(job, loaded)), context)
    return _ended(watch, ending_of_verify(result), result.backup)


def _newest(job: Job, loaded: LoadedPolicy) -> str:
    """The newest complete backup. One that lacks a source can prove nothing, and the watch has told of it already."""
    from keepwell.operations.opening import open_vault

    vault, name = open_vault(loaded), f"{_named(job)}@latest"
    if vault.find(name).status == "complete":
        return name
    complete = [backup for backup in vault.backups(job.environment) if backup.status == "complete"]
    return str(complete[-1].id) if complete else name


def _prune(_job: Job, loaded: LoadedPolicy, context: Context, watch: Run, _permit: Permit) -> Outcome:
    from keepwell.operations.prune import PruneRequest, prune

    prune(loaded, PruneRequest(), context)
    return _ended(watch, Ending("done"))


def _check(_job: Job, loaded: LoadedPolicy, context: Context, watch: Run, _permit: Permit) -> Outcome:
    from keepwell.operations.check import CheckRequest, check

    return _ended(watch, ending_of_check(check(loaded, CheckRequest(), context)))


def _copy(job: Job, loaded: LoadedPolicy, context: Context, watch: Run, _permit: Permit) -> Outcome:
    from keepwell.operations.copy import CopyRequest, copy

    return _ended(watch, ending_of_copy(copy(loaded, CopyRequest((_named(job),)), context)))


def _drill(job: Job, loaded: LoadedPolicy, context: Context, watch: Run, _permit: Permit) -> Outcome:
    from keepwell.operations.drill import DrillRequest, drill
    from keepwell.watch.answers import record

    # The one that would be wanted back on the day; the drill proves it. An older one would say that more is at risk than is.
    latest = "latest" if _newest(job, loaded).endswith("@latest") else None
    result = drill(loaded, DrillRequest(_named(job), latest), context)
    if result.passed:
        record(loaded, context, "drill", _named(job))
    return _ended(watch, ending_of_drill(result), result.proof.backup)


_DO = {"backup": _backup, "verify": _verify, "prune": _prune, "check": _check, "copy": _copy, "drill": _drill}


def _named(job: Job) -> str:
    assert job.environment is not None  # these kinds have a target
    return job.environment


def _ended(watch: Run, ending: Ending, backup: str = "", *, repeated: bool = False) -> Outcome:
    watch.ended(ending)
    return Outcome(ending.outcome, ending.message, ending.hint, ending.kind, backup, repeated)
