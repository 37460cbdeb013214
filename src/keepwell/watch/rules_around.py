"""Rules about what is around backups: the store, the watch, copies, logs, people. See docs/reference/rules.md."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from keepwell.core.clock import iso
from keepwell.core.units import show_duration, show_size
from keepwell.watch.seen import Seen, Severity, Symptom
from keepwell.watch.signs import AWAY, CLOCK, SETTLE, STORE, STORE_KINDS, missing_since, span

_CLOCK_WRONG = dt.timedelta(minutes=5)
_STORE_PATIENCE = dt.timedelta(minutes=5)


def store_unreachable(seen: Seen) -> Iterator[Symptom]:
    """The store does not answer, or refuses. While it lasts, nothing is known of backups."""
    error = seen.store.error
    if error and error[0] in STORE_KINDS:
        hint = error[2] or "Look whether the store is up, and whether the credentials still hold: keepwell doctor"
        # A run that failed for it has waited already.
        hurt = any(run.outcome == "failed" and run.kind in STORE_KINDS for run in seen.runs)
        patience = dt.timedelta(0) if hurt else _STORE_PATIENCE
        yield Symptom("store-unreachable", "store", "failure", error[1], hint, patience=patience)


def vault_unusable(seen: Seen) -> Iterator[Symptom]:
    """The store answers, and the vault in it cannot be opened: key, format, damage."""
    error = seen.store.error
    if error and error[0] not in STORE_KINDS:
        yield Symptom("vault-unusable", "vault", "failure", error[1], error[2] or "keepwell doctor says more.")


def watch_away(seen: Seen) -> Iterator[Symptom]:
    """Nobody watched for a while, and backups were missed meanwhile."""
    if seen.away is None or seen.now - seen.away[1] > SETTLE:
        return
    missed = [env.name for env in seen.environments if missing_since(env, seen.made, seen.now)]
    if missed:
        start, end = seen.away
        yield Symptom(
            "watch-away",
            "watch",
            "failure",
            f"nobody watched for {span(end - start)}, from {iso(start)} to {iso(end)}; backups were missed of "
            f"{', '.join(missed)}",
            "Find out why keepwell serve (or its timer) stood still, and let a heartbeat service tell you next time "
            "([watch] heartbeat).",
            since=start,
        )


def clock_off(seen: Seen) -> Iterator[Symptom]:
    """The clock of this machine is not that of the store: backups are named by it, deadlines are judged by it."""
    apart = seen.store.clock_apart
    if apart is not None and abs(apart) > _CLOCK_WRONG.total_seconds():
        where = "ahead of" if apart > 0 else "behind"
        yield Symptom(
            "clock-off",
            "clock",
            "failure",
            f"this machine's clock is {show_duration(abs(apart))} {where} the store's",
            "Set it by NTP (timedatectl set-ntp true, or chrony): backups are named by it.",
        )


def store_full(seen: Seen) -> Iterator[Symptom]:
    """The store holds more than its share of what it may (80 %)."""
    store = seen.store
    if store.used is None or not store.capacity:
        return
    share = 100 * store.used / store.capacity
    if share >= store.full:
        left = max(0, store.capacity - store.used)
        severity: Severity = "failure" if share >= max(95, store.full) else "warning"
        yield Symptom(
            "store-full",
            "store",
            severity,
            f"the store is {share:.0f} % full: {show_size(left)} of {show_size(store.capacity)} are left",
            "Add space, or keep fewer backups ([environments.….keep], then keepwell prune).",
        )


def audit_broken(seen: Seen) -> Iterator[Symptom]:
    """Entries of the audit log are missing that were there."""
    if seen.store.audit:
        yield Symptom(
            "audit-broken",
            "vault",
            "failure",
            f"the audit log of {seen.store.url} is not whole: {seen.store.audit}",
            "Somebody deleted them, or the store was put back to an earlier state. See who can delete there; `keepwell audit verify` "
            "tells more, and `keepwell check --repair` brings back what a copy has.",
        )


def copy_behind(seen: Seen) -> Iterator[Symptom]:
    """A copy of the vault lacks backups that it should have had by now."""
    for copy in seen.copies:
        late = copy.missing is not None and seen.now - copy.missing > seen.copy_within
        if copy.missing is not None and late:
            more = f", and {copy.count - 1} more" if copy.count > 1 else ""
            why = f" ({copy.error})" if copy.error else ""
            yield Symptom(
                "copy-behind",
                copy.name,
                "failure",
                f"the copy {copy.name} lacks the backup of {iso(copy.missing)}{more}{why}",
                copy.hint or "Bring it up to date: keepwell copy",
                since=copy.missing + seen.copy_within,
                held_by=("run-failed:copy", f"run-failed:{copy.name}/copy", STORE, AWAY, CLOCK),
            )


def wal_behind(seen: Seen) -> Iterator[Symptom]:
    """The archived log of a database does not reach near enough to now."""
    for wal in seen.wal:
        if wal.newest is not None and seen.now - wal.newest > seen.wal_within:
            yield Symptom(
                "wal-behind",
                f"{wal.environment}/{wal.source}",
                "failure",
                f"the log of {wal.source} in {wal.environment} is archived up to {iso(wal.newest)} only, "
                f"{span(seen.now - wal.newest)} ago",
                "See whether the receiver runs and reaches the server (or what archive_command says in the server's log). "
                "The server keeps its log meanwhile: watch its disk.",
                wal.environment,
                wal.newest,
                (STORE, AWAY, CLOCK),
            )


def wal_gap(seen: Seen) -> Iterator[Symptom]:
    """A piece of the log is missing: no recovery to moments after it, until the next base backup."""
    for wal in seen.wal:
        if wal.gap:
            yield Symptom(
                "wal-gap",
                f"{wal.environment}/{wal.source}",
                "failure",
                f"the log of {wal.source} in {wal.environment} has a gap: {wal.gap}",
                f"Moments after the gap can be recovered again from the next backup on: keepwell backup {wal.environment}",
                wal.environment,
            )


def provider_stopped(seen: Seen) -> Iterator[Symptom]:
    """The provider's own backups of a managed database have stopped, or reach less far back than they should."""
    for own in seen.providers:
        where = f"{own.provider}'s own backups of {own.source} in {own.environment}"
        if own.error:
            text = f"{where} cannot be asked for: {own.error}"
        elif own.newest is None:
            text = f"there are none of {where}"
        elif seen.now - own.newest > dt.timedelta(hours=25):
            text = f"{where} have stopped: the newest is of {iso(own.newest)}"
        elif own.window is not None and own.window < own.wanted:
            text = f"{where} reach back {span(own.window)} only, less than {span(own.wanted)}"
        else:
            continue
        yield Symptom(
            "provider-stopped",
            f"{own.environment}/{own.source}",
            "warning",
            text,
            "Look into the provider's console. Backups by keepwell go on.",
            own.environment,
            own.newest,
        )


def drill_overdue(seen: Seen) -> Iterator[Symptom]:
    """Nobody has rehearsed a recovery for too long."""
    for env in seen.environments:
        last = env.drilled or seen.made
        if env.drill_within is None or last is None or seen.now - last <= env.drill_within:
            continue
        how = f"the last was on {last:%Y-%m-%d}" if env.drilled else "there was none yet"
        yield Symptom(
            "drill-overdue",
            env.name,
            "warning",
            f"no recovery of {env.name} was rehearsed within {span(env.drill_within)}: {how}",
            f"Rehearse one: keepwell drill {env.name}",
            env.name,
            last + env.drill_within,
            (CLOCK,),
        )


def review_overdue(seen: Seen) -> Iterator[Symptom]:
    """Nobody has gone through the strategy for too long."""
    last = seen.reviewed or seen.made
    if last is not None and seen.now - last > seen.review_within:
        how = f"the last review was on {last:%Y-%m-%d}" if seen.reviewed else "there was none yet"
        yield Symptom(
            "review-overdue",
            "strategy",
            "warning",
            f"the strategy was not reviewed within {span(seen.review_within)}: {how}",
            "Go through the policy and the contacts; then set reviewed in [watch], or: keepwell alerts record review",
            since=last + seen.review_within,
            held_by=(CLOCK,),
        )


def key_untested(seen: Seen) -> Iterator[Symptom]:
    """A key that reads the vault was not tried for long: it may be lost, or not open it."""
    for key in seen.keys:
        if seen.now - key.tried > seen.key_within:
            yield Symptom(
                "key-untested",
                key.slot,
                "warning",
                f"key {key.label} (slot {key.slot}) was last tried on {key.tried:%Y-%m-%d}",
                f"Fetch it from where it is kept and try it: keepwell --key-file FILE list; then: keepwell alerts record key {key.slot}",
                since=key.tried + seen.key_within,
                held_by=(CLOCK,),
            )


def channel_failed(seen: Seen) -> Iterator[Symptom]:
    """A message could not be delivered; the other channels are told."""
    for channel in seen.channels:
        yield Symptom(
            "channel-failed",
            channel.name,
            "failure",
            f"messages through {channel.name} do not get through: {channel.error}",
            f"Correct its URL, or what blocks it; then: keepwell alerts test {channel.name}",
            since=channel.since,
        )
