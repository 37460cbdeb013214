"""Rules about backups, their runs and their proofs. What each is for, and what to do: docs/reference/rules.md."""

from __future__ import annotations

import datetime as dt
import statistics
from collections.abc import Iterable, Iterator

from keepwell.core.clock import iso
from keepwell.core.units import show_duration, show_size
from keepwell.watch.seen import RunSeen, Seen, Severity, Symptom
from keepwell.watch.signs import AWAY, CLOCK, STORE, STORE_KINDS, missing_since, span

_FEWEST, _MOST = 5, 14
"""So many earlier backups are needed, and looked at, to say what is usual."""
_SMALL = 1_000_000


def backup_missing(seen: Seen) -> Iterator[Symptom]:
    """A backup was due, the grace time is over, and there is no complete one since."""
    for env in seen.environments:
        since = missing_since(env, seen.made, seen.now)
        if since is None:
            continue
        newest = env.newest
        last = f"the last is of {iso(newest.time)}, {span(seen.now - newest.time)} ago" if newest else "there is none"
        running = next((r for r in _of(seen.runs, "backup", env.name) if r.outcome == "running"), None)
        under_way = f"; one is under way since {iso(running.started)}" if running else ""
        yield Symptom(
            "backup-missing",
            env.name,
            "failure",
            f"no complete backup of {env.name}: due at {iso(since)}, {last}{under_way}",
            f"Take one now: keepwell backup {env.name}. If that fails, it says why.",
            env.name,
            since,
            (f"run-failed:{env.name}/backup", f"backup-incomplete:{env.name}", STORE, AWAY, CLOCK),
        )


def backup_incomplete(seen: Seen) -> Iterator[Symptom]:
    """A source failed in the newest backup; the others are safe."""
    for env in seen.environments:
        last = next((p for p in reversed(env.backups) if p.complete or p.failed), None)
        if last and last.failed:
            names = ", ".join(last.failed)
            yield Symptom(
                "backup-incomplete",
                env.name,
                "failure",
                f"{names} failed in {last.id}; the other sources of {env.name} are safe",
                f"See what is wrong with it (keepwell doctor), then: keepwell backup {env.name}",
                env.name,
                last.time,
            )


def backup_damaged(seen: Seen) -> Iterator[Symptom]:
    """What a backup says of itself was altered or cut short in the store."""
    for env in seen.environments:
        for backup, why in env.damaged:
            yield Symptom(
                "backup-damaged",
                backup,
                "failure",
                f"{backup} is damaged: {why}",
                "Look for more damage (keepwell check --data), and put the object back from a copy of the vault.",
                env.name,
            )


def run_failed(seen: Seen) -> Iterator[Symptom]:
    """The last run of a backup, proof, prune, check, copy or drill failed, or its process is gone."""
    for run in seen.runs:
        if run.outcome not in {"failed", "vanished"} or run.kind == "ProofFailed":  # the proof itself tells, below
            continue
        what = f"{run.verb} of {run.environment}" if run.environment else run.verb
        again = f"keepwell {run.verb} {run.environment}" if run.environment else f"keepwell {run.verb}"
        text = run.message if run.outcome == "failed" else "its process is gone without a word (killed, or the machine)"
        held = [STORE] if run.kind in STORE_KINDS else []
        yield Symptom(
            "run-failed",
            run.subject,
            "failure",
            f"{what} failed: {text}",
            run.hint or f"Run it by hand to see more: {again}",
            run.concerns,
            run.started,
            tuple(held),
        )


def run_long(seen: Seen) -> Iterator[Symptom]:
    """A run takes longer than it may, or took longer than the policy's `longest`."""
    for run in seen.runs:
        env = seen.environment(run.concerns)
        written = env.longest if env and run.verb == "backup" else None
        limit = written or max(dt.timedelta(hours=1), dt.timedelta(seconds=3 * (run.usual or 0)))
        end = run.ended or (seen.now if run.outcome == "running" else None)
        if end is None or end - run.started <= limit or (run.ended and written is None):
            continue
        what = f"{run.verb} of {run.environment}" if run.environment else run.verb
        verb = "took" if run.ended else "is running for"
        yield Symptom(
            "run-long",
            run.subject,
            "warning",
            f"{what} {verb} {span(end - run.started)}; {span(limit)} is the most",
            "See what it waits for (a lock in the database, a slow link). If that is how long it takes now, write "
            "longest in [environments.….watch].",
            run.concerns,
            run.started,
        )


def data_at_risk(seen: Seen) -> Iterator[Symptom]:
    """The newest complete backup is older than the policy's written `rpo_max`."""
    for env in seen.environments:
        if env.rpo_max is None or env.newest is None:
            continue
        slack = env.grace if env.schedule else dt.timedelta(0)
        age = seen.now - env.newest.time
        if age > env.rpo_max + slack:
            yield Symptom(
                "data-at-risk",
                env.name,
                "failure",
                f"{span(age)} of data of {env.name} are at risk, more than the maximum of {span(env.rpo_max)}",
                f"keepwell backup {env.name}; and a schedule that is frequent enough for the objective.",
                env.name,
                env.newest.time + env.rpo_max,
                (
                    f"backup-missing:{env.name}",
                    f"run-failed:{env.name}/backup",
                    f"backup-incomplete:{env.name}",
                    STORE,
                    AWAY,
                    CLOCK,
                ),
            )


def recovery_slow(seen: Seen) -> Iterator[Symptom]:
    """The newest proof took longer than the time to recover allows."""
    for env in seen.environments:
        if env.recovery is None or env.recovery <= env.rto.total_seconds():
            continue
        over = env.recovery > env.rto_max.total_seconds()
        goal = f"maximum of {span(env.rto_max)}" if over else f"target of {span(env.rto)}"
        severity: Severity = "failure" if over else "warning"
        yield Symptom(
            "recovery-slow",
            env.name,
            severity,
            f"recovering {env.name} takes {show_duration(env.recovery)}, measured by its last proof: more than the {goal}",
            "Restore on a faster machine, nearer to the store, or with fewer indexes; or agree on another objective.",
            env.name,
            env.proof_time,
        )


def proof_failed(seen: Seen) -> Iterator[Symptom]:
    """A backup was restored and is not what was backed up."""
    for env in seen.environments:
        if env.failed_proof:
            backup, found = env.failed_proof
            yield Symptom(
                "proof-failed",
                env.name,
                "failure",
                f"the proof of {backup} failed: {found}",
                f"Do not rely on this backup. Take and prove another: keepwell backup {env.name} && keepwell verify "
                f"{env.name}",
                env.name,
            )


def proof_overdue(seen: Seen) -> Iterator[Symptom]:
    """No backup was proven for too long."""
    for env in seen.environments:
        if env.proof_within is None or not env.backups:
            continue
        last = env.proof_time or env.backups[0].time
        if seen.now - last > env.proof_within:
            how = f"the last proof is {span(seen.now - last)} old" if env.proof_time else "none was ever proven"
            yield Symptom(
                "proof-overdue",
                env.name,
                "warning",
                f"no backup of {env.name} was proven within {span(env.proof_within)}: {how}",
                f"keepwell verify {env.name}",
                env.name,
                last + env.proof_within,
                (f"proof-failed:{env.name}", f"run-failed:{env.name}/verify", STORE, AWAY, CLOCK),
            )


def size_unusual(seen: Seen) -> Iterator[Symptom]:
    """A source is less than half, or more than twice, of what it usually is."""
    for env in seen.environments:
        complete = [p for p in env.backups if p.complete]
        if not complete:
            continue
        newest, earlier = complete[-1], complete[-1 - _MOST : -1]
        for source, size in newest.sources.items():
            known = [p.sources[source] for p in earlier if source in p.sources]
            if len(known) < _FEWEST:
                continue
            usual = statistics.median(known)
            far = size < usual / 2 or size > usual * 2
            if far and (abs(size - usual) > _SMALL or size == 0):
                yield Symptom(
                    "size-unusual",
                    f"{env.name}/{source}",
                    "warning",
                    f"{source} in {newest.id} has {show_size(size)}; usual are {show_size(usual)}",
                    f"See whether data was lost or flooded: keepwell show {newest.id}. If it is right, acknowledge this.",
                    env.name,
                    newest.time,
                )


def duration_unusual(seen: Seen) -> Iterator[Symptom]:
    """A backup took three times as long as it usually does, and ten minutes more."""
    for env in seen.environments:
        complete = [p for p in env.backups if p.complete]
        known = [p.seconds for p in complete[-1 - _MOST : -1]]
        if len(known) < _FEWEST:
            continue
        usual, took = statistics.median(known), complete[-1].seconds
        if took > 3 * usual and took > usual + 600:
            yield Symptom(
                "duration-unusual",
                env.name,
                "warning",
                f"{complete[-1].id} took {show_duration(took)}; usual are {show_duration(usual)}",
                "See whether the database, the link or the store has become slow.",
                env.name,
                complete[-1].time,
            )


def _of(runs: Iterable[RunSeen], verb: str, environment: str) -> Iterator[RunSeen]:
    return (run for run in runs if run.verb == verb and run.environment == environment)
