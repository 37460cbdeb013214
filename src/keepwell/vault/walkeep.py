"""Which log is kept: the rules of docs/format.md, section 11, as functions of what a listing tells."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from keepwell.core.clock import from_iso
from keepwell.core.errors import Damaged
from keepwell.core.streams import Json
from keepwell.core.wal import parse_lsn
from keepwell.vault.catalog import Backup
from keepwell.vault.walcoverage import Coverage, Part


@dataclass(frozen=True)
class Holder:
    """A backup, as far as log is concerned."""

    backup: str
    system: str
    timeline: int
    start: int
    stop: int
    ended: dt.datetime
    """By the server's clock."""
    since: dt.datetime
    """When it was there for certain: the latest of its own time, its end and when its `metadata.json` came into the store."""


@dataclass(frozen=True)
class Span:
    """Time, for which every moment is to stay recoverable, and the grace time."""

    now: dt.datetime
    """By the store's clock."""
    window: dt.timedelta
    grace: dt.timedelta

    @property
    def lasts(self) -> dt.timedelta:
        """So long a timeline that no log comes for may still be needed."""
        return self.window + self.grace


def holder_of(backup: Backup, source: str, modified: dt.datetime) -> Holder | None:
    """None where the backup has no log of that source. Raises Damaged where it says nothing sensible of it."""
    found: dict[str, Json] = backup.document["sources"].get(source) or {}
    wal = found.get("wal")
    if found.get("status") != "complete" or not wal:
        return None
    try:
        ended = from_iso(wal["time"])
        return Holder(
            str(backup.id),
            str(wal["system"]),
            int(wal["timeline"]),
            parse_lsn(wal["start"]),
            parse_lsn(wal["stop"]),
            ended,
            max(backup.time, ended, modified),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{backup.id} does not say what log belongs to it ({error})") from None


def anchor_of(holders: Iterable[Holder], span: Span) -> Holder | None:
    """The newest backup that is as old as the window is long; None: there is none yet."""
    old = [holder for holder in holders if span.now - holder.since >= span.window]
    return max(old, key=lambda holder: (holder.since, holder.stop), default=None)


def footings_of(
    holders: Sequence[Holder], anchor: Holder | None, coverages: Mapping[str, Coverage], span: Span
) -> list[Holder]:
    """Backups besides the anchor that recovery along some living timeline begins with.

    After a recovery to an earlier moment, positions run backwards, and two servers may live side by side: then the anchor does
    not lead to every timeline. Which timeline left which, and where, cannot be told without a reader key; so whatever may
    have been is taken for true, until a timeline has an old enough backup of its own.
    """
    if anchor is None:
        return []
    found: dict[str, Holder] = {}
    for system, coverage in coverages.items():
        size = coverage.segment_size or 1 << 30
        begins = {timeline: coverage.spans(timeline)[0][0] for timeline in coverage.timelines()}
        mine = [holder for holder in holders if holder.system == system]
        for timeline in begins:
            if not any(p.timeline == timeline and span.now - p.modified < span.lasts for p in coverage.parts):
                continue
            here = sorted((h for h in mine if h.timeline == timeline), key=lambda h: (h.since, h.stop))
            own = anchor_of(here, span)
            if own is not None:
                found[own.backup] = own
            else:
                found |= {footing.backup: footing for footing in (*here[:1], *_before(mine, timeline, begins, size))}
    found.pop(anchor.backup, None)
    return list(found.values())


def _before(holders: Sequence[Holder], timeline: int, begins: Mapping[int, int], size: int) -> Iterable[Holder]:
    """The last backup of each older timeline before each place where it may have been left.

    A timeline begins with a copy of the whole segment in which it left the other: where in it, is not known.
    """
    for older in {holder.timeline for holder in holders if holder.timeline < timeline}:
        for begin in {begin for other, begin in begins.items() if older < other <= timeline}:
            mine = [h for h in holders if h.timeline == older and h.stop <= begin + size]
            yield from (h for h in mine if h.stop > begin)
            yield from sorted((h for h in mine if h.stop <= begin), key=lambda h: (h.stop, h.since))[-1:]


def must_stay(holders: Sequence[Holder], coverages: Mapping[str, Coverage], span: Span) -> list[Holder]:
    """The anchor, its heirs and the footings; where there is no anchor, the oldest backup, which will be it, and its heirs."""
    anchor = anchor_of(holders, span)
    first = anchor or min(holders, key=lambda holder: (holder.since, holder.stop), default=None)
    if first is None:
        return []
    return [first, *_heirs(holders, first, span), *footings_of(holders, anchor, coverages, span)]


def _heirs(holders: Sequence[Holder], first: Holder, span: Span) -> Iterable[Holder]:
    """Those that will be the anchor, one after the other.

    Rules that remove backups younger than the window would leave none, and the log would grow without end.
    """
    later = sorted((h for h in holders if h.since > first.since), key=lambda h: (h.since, h.stop))
    while later:
        near = [h for h in later if h.since - first.since <= span.window / 2]
        first = near[-1] if near else later[0]
        later = [h for h in later if h.since > first.since]
        yield first


@dataclass(frozen=True)
class Unneeded:
    """What may go of one cluster's log."""

    parts: tuple[Part, ...]
    """That no rule keeps, ascending."""
    doubled: tuple[tuple[Part, Part], ...]
    """Parts that another one holds all of, with that other one."""
    files: tuple[str, ...]


def unneeded(
    system: str,
    coverage: Coverage,
    holders: Sequence[Holder],
    anchor: Holder | None,
    footings: Sequence[Holder],
    span: Span,
    *,
    expected: bool,
) -> Unneeded:
    """`holders`: all of the source, also condemned ones. `expected`: a first backup of this cluster may be under way."""
    own = [holder for holder in holders if holder.system == system]
    leading = [holder for holder in own if anchor is None or holder.since >= anchor.since or holder in footings]
    anchored = anchor.timeline if anchor and anchor.system == system else None

    def kept(part: Part) -> bool:
        age = span.now - part.modified
        return (
            age < span.grace
            or any(h.timeline == part.timeline and h.start < part.end and part.start < h.stop for h in own)
            or any(h.timeline <= part.timeline and h.start < part.end for h in leading)
            or (age < span.lasts and part.timeline != anchored)
            or (not own and expected)
        )

    stay = {part.name for part in coverage.parts if kept(part)}
    gone = [part for part in coverage.parts if part.name not in stay]
    files = () if stay or expected or own else tuple(coverage.files)
    doubled = _doubled([part for part in coverage.parts if part.name in stay], span)
    return Unneeded(tuple(sorted(gone, key=lambda p: (p.timeline, p.start, p.end))), tuple(doubled), files)


def _doubled(parts: Sequence[Part], span: Span) -> list[tuple[Part, Part]]:
    found = []
    for _, group in groupby(parts, key=lambda part: (part.timeline, part.segment)):
        old = [part for part in group if span.now - part.modified >= span.grace]
        for part in old:
            holding = [o for o in old if o.start <= part.start and part.end <= o.end and o.length > part.length]
            if holding:
                found.append((part, max(holding, key=lambda o: o.length)))
    return found


@dataclass(frozen=True)
class LostMoments:
    """Moments that cannot be recovered to afterwards, but for the ends of backups that stay."""

    system: str
    begin: dt.datetime
    """The end of the first backup that log goes away behind."""
    end: dt.datetime | None
    """From the end of this backup on everything stays as it was; None: there is no such backup."""


def lost_moments(
    system: str, coverage: Coverage, going: Iterable[Part], before: Sequence[Holder], after: Sequence[Holder]
) -> list[LostMoments]:
    """What the deletion of `going`, and of the backups that are in `before` and not in `after`, takes away."""
    gone = {part.name for part in going}
    left = Coverage([part for part in coverage.parts if part.name not in gone])
    size = coverage.segment_size or 1 << 30
    before = [holder for holder in before if holder.system == system]
    after = [holder for holder in after if holder.system == system]
    found: list[LostMoments] = []
    for timeline in coverage.timelines():
        then, now = _reached(coverage, before, timeline, size), _reached(left, after, timeline, size)
        for start, end in _without(then, now):
            begins = [h.ended for h in before if h.timeline <= timeline and h.stop <= start]
            ends = [h.ended for h in after if h.timeline <= timeline and h.stop >= end]
            found.append(LostMoments(system, max(begins), min(ends, default=None)))
    return found


def _reached(coverage: Coverage, holders: Sequence[Holder], timeline: int, size: int) -> list[tuple[int, int]]:
    """Ranges of a timeline that can be recovered to: log without a gap from the end of a backup on."""
    reached = []
    for holder in holders:
        for start, end in coverage.spans(timeline):
            # The backup itself has log to the end of its last segment. Behind a change of timeline, it is where that begins.
            own = -(-holder.stop // size) * size
            leads = start <= own if holder.timeline == timeline else holder.timeline < timeline
            if leads and end > holder.stop:
                reached.append((max(start, holder.stop), end))
    return reached


def _without(ranges: Iterable[tuple[int, int]], others: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of the ranges none of the others has, sorted and merged."""
    found: list[tuple[int, int]] = []
    mine, theirs = list(ranges), list(others)
    edges = sorted({edge for one in (*mine, *theirs) for edge in one})
    for low, high in pairwise(edges):
        inside = any(a <= low and high <= b for a, b in mine)
        if inside and not any(a <= low and high <= b for a, b in theirs):
            if found and found[-1][1] == low:
                found[-1] = (found[-1][0], high)
            else:
                found.append((low, high))
    return found
