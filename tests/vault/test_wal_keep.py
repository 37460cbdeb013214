"""Which log a prune may delete: never what a moment of the window needs, whatever the server and the backups did."""

import datetime as dt
import random

import pytest

from keepwell.core.wal import segment_name
from keepwell.vault.walcoverage import Coverage, Part
from keepwell.vault.walkeep import Holder, Span, anchor_of, footings_of, lost_moments, must_stay, unneeded

SIZE = 1 << 20
ZERO = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
WINDOW, GRACE = 7 * DAY, 2 * DAY


def day(number):
    return ZERO + number * DAY


def part(number, *, timeline=1, at=0.0, start=0, end=SIZE, system="1"):
    low = number * SIZE
    name = f"{system}/{timeline}/{number}/{start}-{end}"
    return Part(timeline, low + start, low + end, name, 100, day(at), segment_name(timeline, low, SIZE))


def holder(ident, at, position, *, timeline=1, length=0.5, system="1"):
    start = int(position * SIZE)
    return Holder(ident, system, timeline, start, int((position + length) * SIZE), day(at), day(at))


def going(parts, holders, now, *, expected=False, system="1", files=(), window=WINDOW):
    span = Span(day(now), window, GRACE)
    coverage = Coverage(sorted(parts, key=lambda p: (p.timeline, p.start, -p.end)), list(files))
    anchor = anchor_of(holders, span)
    footings = footings_of(holders, anchor, {system: coverage}, span)
    return unneeded(system, coverage, holders, anchor, footings, span, expected=expected)


def numbers(found):
    return [(p.timeline, p.start // SIZE) for p in found.parts]


def daily(count, start=0):
    """A segment and a backup a day; the backup begins in the middle of the day's segment."""
    parts = [part(n + 10, at=n) for n in range(start, count)]
    return parts, [holder(f"b{n}", n, n + 10 + 0.25, length=0.25) for n in range(start, count)]


def test_log_before_the_anchor_goes_but_not_what_a_backup_began_in():
    parts, backups = daily(20)
    parts += [part(9, at=0)]
    found = going(parts, backups, 20)
    # Every segment of a kept backup stays, since each backup overlaps it.
    assert numbers(found) == [(1, 9)]
    assert numbers(going(parts, backups[10:], 20)) == [(1, n) for n in range(9, 20)]


def test_log_after_the_oldest_backup_stays_where_none_is_as_old_as_the_window():
    parts, _ = daily(20)
    # What is younger than window and grace together stays in any case: a backup may be under way.
    assert numbers(going(parts, [holder("b15", 15, 25.25)], 20)) == [(1, n) for n in range(10, 22)]
    assert numbers(going(parts, [holder("b15", 15, 25.25)], 21.9)) == [(1, n) for n in range(10, 23)]


def test_a_shorter_window_frees_more():
    parts, backups = daily(20)
    freed = going(parts, backups[4:6] + backups[15:], 20, window=2 * DAY)
    assert numbers(freed) == [(1, n) for n in (10, 11, 12, 13, *range(16, 25))]


def test_young_log_stays_whatever_it_is():
    parts = [part(n, at=19) for n in range(3)]
    assert going(parts, [holder("b", 5, 50)], 20).parts == ()
    assert numbers(going(parts, [holder("b", 5, 50)], 22)) == [(1, 0), (1, 1), (1, 2)]


def test_a_cluster_without_backups_keeps_its_log_while_it_is_young_or_the_newest():
    parts = [part(n, at=n) for n in range(20)]
    assert going(parts, [], 100, expected=True).parts == ()
    found = going(parts, [], 20, files=["00000002.history"])
    assert [p.start // SIZE for p in found.parts] == list(range(12))
    assert found.files == ()
    everything = going(parts, [], 100, files=["00000002.history"])
    assert len(everything.parts) == 20
    assert everything.files == ("00000002.history",)


def test_log_of_an_old_cluster_goes_with_its_last_backups():
    old = [part(n, at=n) for n in range(5)]
    backups = [holder("old", 1, 1.5, length=0.2), holder("new", 10, 3, system="2")]
    assert numbers(going(old, backups, 30)) == [(1, 0), (1, 2), (1, 3), (1, 4)]


def test_a_timeline_that_began_before_the_anchor_keeps_what_leads_to_it():
    """A recovery to an earlier moment than the anchor's: positions run backwards."""
    parts = [part(n, at=n) for n in range(20)]
    parts += [part(n, timeline=2, at=20 + n - 8) for n in range(8, 11)]
    backups = [holder("footing", 5, 5.5, length=0.2), holder("anchor", 12, 12.5, length=0.2)]
    span = Span(day(22), WINDOW, GRACE)
    coverage = Coverage(sorted(parts, key=lambda p: (p.timeline, p.start)))
    assert {h.backup for h in must_stay(backups, {"1": coverage}, span)} == {"anchor", "footing"}
    assert [h.backup for h in footings_of(backups, backups[1], {"1": coverage}, span)] == ["footing"]
    assert numbers(going(parts, backups, 22)) == [(1, n) for n in range(5)]
    # Once backups of the new timeline are old enough, they are what everything begins with.
    later = [*backups, holder("mine", 23, 10.2, timeline=2, length=0.1)]
    assert numbers(going(parts, later, 40)) == [(1, n) for n in range(20) if n not in {5, 12}] + [(2, 8), (2, 9)]


def test_the_anchor_has_heirs_whatever_other_rules_remove():
    """So that log is kept for less than two windows, even where backups are to stay for an hour."""
    backups, oldest = [], []
    for number in range(100):
        backups.append(holder(f"b{number}", number / 2, number))
        span = Span(day(number / 2 + 0.1), WINDOW, GRACE)
        backups = must_stay(backups, {}, span) + backups[-1:] * (backups[-1] not in must_stay(backups, {}, span))
        oldest.append((span.now - min(b.since for b in backups)) / DAY)
        assert len(backups) < 8
    assert max(oldest) < 1.5 * 7 + 1
    assert min(oldest[20:]) >= 7


def test_parts_go_when_the_whole_segment_is_there_and_both_are_old():
    small = [part(5, at=0, end=SIZE // 2), part(5, at=0, start=SIZE // 2)]
    whole = part(5, at=1)
    backups = [holder("b", 0, 4)]
    assert going([*small, whole], backups, 2.5).doubled == ()
    found = going([*small, whole], backups, 3)
    assert {(a.name, b.name) for a, b in found.doubled} == {(p.name, whole.name) for p in small}
    assert found.parts == ()


def test_overlapping_parts_of_which_none_holds_the_other_stay():
    some = [part(5, at=0, end=600), part(5, at=0, start=500, end=SIZE)]
    assert going(some, [holder("b", 0, 4)], 20).doubled == ()


def test_what_is_lost_is_told_in_times():
    parts, backups = daily(20)
    coverage = Coverage(parts)
    gone = [p for p in parts if p.start < 15 * SIZE]
    (lost,) = lost_moments("1", coverage, gone, backups, backups)
    assert (lost.begin, lost.end) == (day(0), day(5))
    assert lost_moments("1", coverage, [], backups, backups) == []
    # Without any backup before it, log is of no use, and its loss is none.
    assert lost_moments("1", coverage, parts[:5], backups[5:], backups[5:]) == []
    # The first backups go, and their log stays: nobody can reach it any more.
    (lost,) = lost_moments("1", coverage, [], backups, backups[3:])
    assert (lost.begin, lost.end) == (day(0), day(3))
    # A backup in the middle goes: others lead through.
    assert lost_moments("1", coverage, [], backups, backups[:3] + backups[5:]) == []
    (lost,) = lost_moments("1", coverage, [], backups, [])
    assert (lost.begin, lost.end) == (day(0), None)


class World:
    """A server, its log, its backups, and prunes; and what could be recovered to before and after each.

    Positions are bytes, multiples of a 16th of a segment.
    """

    def __init__(self, seed):
        self.choose = random.Random(seed)
        self.now = 0.0
        self.timeline, self.position = 1, 10 * SIZE
        self.forks = {1: []}
        self.parts, self.backups, self.running = [], [], []
        self.written = []
        self.number = 0

    def store(self, begin, end):
        while begin < end:
            number, low = divmod(begin, SIZE)
            high = min(SIZE, end - number * SIZE)
            self.parts.append(part(number, timeline=self.timeline, at=self.now, start=low, end=high))
            begin = number * SIZE + high

    def write(self):
        for _ in range(self.choose.randint(1, 4)):
            begin, self.position = self.position, self.position + SIZE // 16 * self.choose.choice([1, 7, 16])
            self.store(begin, self.position)
            self.written.append((self.now, self.timeline, self.position))

    def begin(self):
        self.number += 1
        self.running.append((f"b{self.number}", self.timeline, self.position))

    def commit(self):
        if not self.running:
            return
        ident, timeline, start = self.running.pop(0)
        if timeline == self.timeline and self.position > start:
            time = day(self.now)
            self.backups.append(Holder(ident, "1", timeline, start, self.position, time, time))
            self.write()

    def fork(self, position):
        """The new timeline has a copy of the segment that it begins in."""
        new = max(self.forks) + 1
        self.forks[new] = [*self.forks[self.timeline], (self.timeline, position)]
        self.timeline, self.position, self.running = new, position, []
        self.store(position - position % SIZE, position)

    def rewind(self):
        """A recovery to an earlier moment of the same timeline."""
        mine = [moment for moment in self.written if moment[1] == self.timeline and self.recoverable(moment)]
        if mine:
            self.fork(self.choose.choice(mine)[2])
            self.write()

    def recoverable(self, moment, parts=None, backups=None):
        _, timeline, position = moment
        coverage = Coverage(sorted(self.parts if parts is None else parts, key=lambda p: (p.timeline, p.start)))
        way = [*self.forks[timeline], (timeline, position)]
        for backup in self.backups if backups is None else backups:
            steps = [(t, end) for t, end in way if t >= backup.timeline]
            if not steps or steps[0][0] != backup.timeline or backup.stop > steps[0][1]:
                continue
            at = backup.stop
            for number, end in steps:
                if not coverage.has(number, at, end):
                    break
                at = max(at, end)
            else:
                return True
        return False

    def prune(self):
        span = Span(day(self.now), WINDOW, GRACE)
        coverage = Coverage(sorted(self.parts, key=lambda p: (p.timeline, p.start, -p.end)))
        listed = list(self.backups)
        # Between the look and the deletion a backup may be committed.
        if self.choose.random() < 0.3:
            self.commit()
        stay = {h.backup for h in must_stay(listed, {"1": coverage}, span)}
        recent = [m for m in self.written if self.now - m[0] < WINDOW.days and self.recoverable(m)]
        removed = {h.backup for h in listed if h.backup not in stay and self.choose.random() < 0.3}
        anchor = anchor_of(listed, span)
        footings = footings_of(listed, anchor, {"1": coverage}, span)
        found = unneeded("1", coverage, listed, anchor, footings, span, expected=True)
        gone = {p.name for p in found.parts} | {p.name for p, _ in found.doubled}
        self.parts = [p for p in self.parts if p.name not in gone]
        self.backups = [b for b in self.backups if b.backup not in removed]
        for moment in recent:
            assert self.recoverable(moment), (moment, removed, sorted(gone))
        return len(found.parts)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_no_history_of_a_server_ever_loses_a_moment_of_the_window(seed):
    world = World(seed)
    deleted = 0
    for _ in range(120):
        world.now += world.choose.random()
        act = world.choose.choices(
            [world.write, world.begin, world.commit, lambda: world.fork(world.position), world.rewind, world.prune],
            [8, 3, 3, 0.3, 0.4, 2],
        )[0]
        deleted += act() or 0
    for _ in range(30):
        world.now += 2
        world.begin()
        world.write()
        world.commit()
        deleted += world.prune()
    world.backups = [b for b in world.backups if world.now - (b.since - ZERO) / DAY < 20]
    deleted += world.prune()
    assert deleted > 20
    assert all(world.now - (p.modified - ZERO) / DAY < 30 for p in world.parts)
