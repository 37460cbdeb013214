"""To which moments a cluster can be recovered, and how: the plan of a recovery, or why there is none and what is nearest."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from keepwell.core.clock import UTC
from keepwell.core.errors import BackupNotFound, Damaged, UsageError
from keepwell.core.streams import Json
from keepwell.core.units import show_size
from keepwell.core.wal import history_name, show_lsn
from keepwell.operations.logpath import Base, Log, Path, Sweep, around, descendants, path, tail, without_history
from keepwell.policy.values import nearest
from keepwell.sources.base import Recovery
from keepwell.sources.physical.records import Moment

Logs = Callable[[str], Log | None]
"""The log of a cluster by its system identifier; None where the vault has none."""


@dataclass(frozen=True)
class Plan:
    """A recovery that will reach what was asked for."""

    base: Base
    recovery: Recovery
    """What the server is to be told. Its timeline is a number; a time that no transaction follows has become an LSN."""
    log: tuple[tuple[int, int, int], ...]
    """The log that will be replayed: (timeline, start, end) each."""
    reaches: str
    """What the cluster will be like, for people."""
    moment: Moment | None = None
    """The last transaction in it, where that is known."""
    remarks: tuple[str, ...] = ()

    @property
    def backup(self) -> str:
        return self.base.backup

    @property
    def bytes(self) -> int:
        """Of log to replay."""
        return sum(end - start for _, start, end in self.log)

    @property
    def segments(self) -> int:
        """Of log to fetch, at the most."""
        size = self.base.segment_size
        return sum(-(-end // size) - start // size for _, start, end in self.log)

    @property
    def text(self) -> str:
        """`production/…: 12 segments (180 MB) of log, to the end of the log: …`."""
        timelines = " and ".join(str(timeline) for timeline, _, _ in self.log)
        (_, start, _), (_, _, end) = self.log[0], self.log[-1]
        return (
            f"{self.backup}, then {show_size(self.bytes)} of log in {self.segments} segments ({show_lsn(start)} to "
            f"{show_lsn(end)}, timeline {timelines}): {self.reaches}"
        )

    def json(self) -> dict[str, Json]:
        return {
            "backup": self.backup,
            "timeline": int(self.recovery.timeline),
            "log": [{"timeline": t, "start": show_lsn(a), "end": show_lsn(b)} for t, a, b in self.log],
            "segments": self.segments,
            "bytes": self.bytes,
            "reaches": self.reaches,
            "last_transaction": show_time(self.moment.time) if self.moment else None,
            "remarks": list(self.remarks),
        }


@dataclass(frozen=True)
class Window:
    """Every moment from one to another can be recovered to."""

    begin: dt.datetime
    """The end of the oldest backup in it."""
    end: dt.datetime
    """The last transaction in the log; equal to `begin` where there is none."""
    begin_lsn: int
    end_lsn: int
    """Where the log without a gap ends."""
    timeline: int
    backups: tuple[str, ...]
    """Oldest first."""
    gap: tuple[int, int, int] | None = None
    """What ends it: timeline, first missing position, where the log goes on; None: the log is simply not longer yet."""


def show_time(time: dt.datetime) -> str:
    """`2026-11-22 14:30:00.250000+00:00`: as `--at` takes it, to the microsecond."""
    return time.astimezone(UTC).isoformat(sep=" ", timespec="microseconds")


def plan(bases: Sequence[Base], logs: Logs, wanted: Recovery, *, exact: str | None = None) -> Plan:
    """How to recover to `wanted`.

    `bases` are all complete backups of the source. With `exact` only that backup will do; else the newest from which the
    moment can be reached. Raises BackupNotFound (no backup), UsageError (no such moment: the message names the nearest),
    Damaged (log is missing or unreadable), StoreError.
    """
    usable = sorted((base for base in bases if exact in {None, base.backup}), key=lambda base: (base.time, base.stop))
    if not usable:
        raise BackupNotFound(
            f"there is no complete physical backup {exact or 'of this source'}",
            hint="`keepwell list` shows what there is.",
        )
    if sum(x is not None for x in (wanted.time, wanted.lsn, wanted.name)) + wanted.immediate > 1:
        raise UsageError("a recovery goes to one place: --at, --lsn, --name or --immediate")
    newest = usable[-1]
    planner = _Planner(usable, logs, wanted)
    if wanted.time is not None:
        found = planner.at(wanted.time)
    elif wanted.lsn is not None:
        found = planner.lsn(wanted.lsn)
    elif wanted.name is not None:
        found = planner.name(wanted.name)
    else:
        found = planner.immediate() if wanted.immediate else planner.latest()
    if found.base != newest:
        remark = f"{found.backup} is used, since this cannot be reached from the newest backup, {newest.backup}"
        return replace(found, remarks=(remark, *found.remarks))
    return found


def recoverable(bases: Sequence[Base], log: Log | None) -> list[Window]:
    """The windows of moments that can be recovered to, oldest first, along the newest timeline of each backup.

    `bases` are the complete backups of one cluster. Between two windows there is a gap. Raises Damaged, StoreError.
    """
    windows: list[Window] = []
    for base in sorted(bases, key=lambda base: (base.stop, base.time)):
        along = path(log, base, descendants(log, base)[-1]) if log else None
        last = windows[-1] if windows else None
        if last and along and last.timeline == along.timeline and base.stop <= last.end_lsn:
            windows[-1] = replace(last, backups=(*last.backups, base.backup))
            continue
        end = tail(log, along).moment if log and along else None
        windows.append(
            Window(
                base.ready if end else base.time,
                max(end.time, base.ready) if end else base.time,
                base.stop,
                along.end if along else base.stop,
                along.timeline if along else base.timeline,
                (base.backup,),
                along.gap if along else None,
            )
        )
    return windows


class _Planner:
    def __init__(self, bases: list[Base], logs: Logs, wanted: Recovery) -> None:
        self._logs, self._wanted = logs, wanted
        self.bases = [base for base in bases if self._leads(base)]
        if not self.bases:
            self._path(bases[-1])  # says why

    def at(self, time: dt.datetime) -> Plan:
        if time.tzinfo is None:
            raise UsageError(f"{time} has no time zone", hint='Write one, such as "2026-11-22 14:30:00+00".')
        earlier = [base for base in self.bases if base.ready <= time]
        if not earlier:
            raise self._too_early(f"{show_time(time)} lies", f"--at '{show_time(self.bases[0].ready)}'")
        base = earlier[-1]
        log, along = self._path(base)
        if log is None:
            raise self._no_log(base, show_time(time))
        found = around(log, along, time)
        before = found.before
        reaches = _to_transaction(before, base)
        if found.beyond:
            recovery = replace(self._wanted, timeline=str(along.timeline))
            return self._plan(along, recovery, found.beyond.end, f"at {show_time(time)}, {reaches}", before)
        if found.passed or (before and before.time == time):
            # PostgreSQL stops at a time only when it meets a later transaction, and there is none.
            exact = replace(self._wanted, time=None, timeline=str(along.timeline))
            exact = replace(exact, lsn=before.lsn) if before else replace(exact, immediate=True)
            end = before.end if before else base.stop
            return self._plan(along, exact, end, f"at {show_time(time)}, {reaches}", before)
        nearest_time = show_time(before.time) if before else show_time(base.ready)
        way = f"--at '{nearest_time}'" if before else f"--immediate (the end of {base.backup})"
        raise UsageError(
            f"the log does not go on to {show_time(time)}: {_ends(along)}, and the last transaction before is of {nearest_time}",
            hint=f"The nearest that can be reached is {way}."
            + ("" if along.gap else " Without --at the recovery goes to the end of the log."),
        )

    def lsn(self, lsn: int) -> Plan:
        earlier = [base for base in self.bases if base.stop <= lsn]
        if not earlier:
            raise self._too_early(f"{show_lsn(lsn)} lies", f"--lsn {show_lsn(self.bases[0].stop)}")
        base = earlier[-1]
        log, along = self._path(base)
        if log is None and lsn > base.stop:
            raise self._no_log(base, show_lsn(lsn))
        if lsn == base.stop:
            return self._consistent(along, f"at {show_lsn(lsn)}, where {base.backup} ended")
        assert log is not None
        end = tail(log, along) if lsn >= along.end - base.segment_size else None
        if end and lsn > end.last:
            raise UsageError(
                f"the log does not go on to {show_lsn(lsn)}: {_ends(along)}",
                hint=f"The nearest that can be reached is --lsn {show_lsn(end.last)}.",
            )
        recovery = replace(self._wanted, timeline=str(along.timeline))
        return self._plan(along, recovery, lsn, f"with the record at {show_lsn(lsn)} as the last", None)

    def name(self, name: str) -> Plan:
        seen: dict[str, Moment] = {}
        until: int | None = None
        for base in reversed(self.bases):
            log, along = self._path(base)
            if log is None:
                continue
            points = [m for m in Sweep(log, along, base.stop, until) if m.kind == "restore point"]
            if here := [point for point in points if point.name == name]:
                recovery = replace(self._wanted, timeline=str(along.timeline))
                text = f"at the restore point {name!r}, made at {show_time(here[0].time)}"
                found = self._plan(along, recovery, here[0].end, text, None)
                if len(here) > 1:
                    times = ", ".join(show_time(point.time) for point in here[1:])
                    remark = f"there are others of that name ({times}); the first after the backup is used"
                    return replace(found, remarks=(*found.remarks, remark))
                return found
            seen |= {point.name: point for point in points}
            # What follows the newer backup has been looked through.
            until = base.stop if not along.gap else None
        if not seen:
            raise UsageError(
                f"the log has no restore point {name!r}, and none at all",
                hint="SELECT pg_create_restore_point('name') makes one; --at goes to a time.",
            )
        listed = ", ".join(f"{point.name} ({show_time(point.time)})" for point in list(seen.values())[-8:])
        raise UsageError(
            f"the log has no restore point {name!r} after a backup",
            hint=f"{nearest(name, seen)} It has: {listed}.".strip(),
        )

    def immediate(self) -> Plan:
        base = self.bases[-1]
        _, along = self._path(base)
        return self._consistent(along, f"where {base.backup} ended ({show_time(base.time)})")

    def latest(self) -> Plan:
        base = self.bases[-1]
        log, along = self._path(base)
        if log is None or not along.stretches:
            if along.gap:
                raise self._has_gap(along, None)
            plan = self._consistent(along, f"where {base.backup} ended ({show_time(base.time)})")
            return replace(plan, remarks=("the vault has no log after this backup, so nothing later can be reached",))
        end = tail(log, along)
        if along.gap:
            raise self._has_gap(along, end.moment)
        recovery = replace(self._wanted, timeline=str(along.timeline))
        return self._plan(
            along, recovery, along.end, f"at the end of the log, {_to_transaction(end.moment, base)}", end.moment
        )

    def _consistent(self, along: Path, reaches: str) -> Plan:
        recovery = Recovery(immediate=True, timeline=str(along.base.timeline))
        return self._plan(along, recovery, along.base.stop, reaches, None)

    def _plan(self, along: Path, recovery: Recovery, end: int, reaches: str, moment: Moment | None) -> Plan:
        return Plan(along.base, recovery, tuple(along.until(end)), reaches, moment)

    def _leads(self, base: Base) -> bool:
        """Whether the timeline that is wanted goes on from the base."""
        if not self._wanted.timeline.isdecimal():
            return True
        log = self._logs(base.system)
        return int(self._wanted.timeline) in (descendants(log, base) if log else [base.timeline])

    def _path(self, base: Base) -> tuple[Log | None, Path]:
        log = self._logs(base.system)
        possible = [base.timeline]
        if log and self._wanted.timeline != "current":
            possible = descendants(log, base)
        match self._wanted.timeline:
            case "latest":
                timeline = possible[-1]
                if log and (lost := without_history(log, base)):
                    raise Damaged(
                        f"the vault has log of timeline {lost[-1]} and not its history ({history_name(lost[-1])}), so it cannot "
                        "be told whether it leads on",
                        hint=f"Put that file into the vault (`keepwell wal push`), or say --timeline {timeline}.",
                    )
            case "current":
                timeline = base.timeline
            case text if text.isdecimal() and int(text) in possible:
                timeline = int(text)
            case text if text.isdecimal():
                raise UsageError(
                    f"timeline {text} does not lead on from {base.backup}, which is of timeline {base.timeline}",
                    hint=f"From there one gets to: {', '.join(map(str, possible))}.",
                )
            case text:
                raise UsageError(f"{text!r} is no timeline", hint="Write latest, current or a number.")
        return log, path(log, base, timeline) if log else Path(base, timeline, (), None)

    def _too_early(self, what: str, option: str) -> UsageError:
        first = self.bases[0]
        return UsageError(
            f"{what} before the end of the oldest backup that could be used, {first.backup} ({show_time(first.time)}, "
            f"{show_lsn(first.stop)})",
            hint=f"The earliest that can be reached is {option}.",
        )

    def _no_log(self, base: Base, what: str) -> UsageError:
        return UsageError(
            f"the vault has no log of the cluster that {base.backup} is of, so {what} cannot be reached",
            hint="Recover to the end of the backup (--immediate). `keepwell wal receive` or `keepwell wal push` keeps the log "
            "from now on.",
        )

    def _has_gap(self, along: Path, last: Moment | None) -> Damaged:
        option = f"--at '{show_time(last.time)}'" if last else "--immediate"
        return Damaged(
            f"the log cannot be followed to its end: {_ends(along)}",
            hint=f"The nearest to the end that can be reached is {option}. A newer backup, if there is one, begins behind the "
            "gap; take one now if not.",
        )


def _ends(along: Path) -> str:
    if along.gap:
        timeline, start, end = along.gap
        return f"{show_lsn(start)} to {show_lsn(end)} of timeline {timeline} is missing in the vault"
    return f"it ends at {show_lsn(along.end)} (timeline {along.stretches[-1].timeline if along.stretches else along.timeline})"


def _to_transaction(moment: Moment | None, base: Base) -> str:
    if moment is None:
        return f"no transaction having ended since {base.backup} did ({show_time(base.time)})"
    return f"the last transaction being of {show_time(moment.time)} ({show_lsn(moment.lsn)})"
