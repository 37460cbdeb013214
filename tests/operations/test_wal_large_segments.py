"""Segments too large to be kept whole in memory are stored in parts; which of these a prune may drop."""

import datetime as dt
import random

import pytest

from keepwell.core.wal import segment_name
from keepwell.operations.wal_intake import LARGEST, Intake
from keepwell.vault.walcoverage import Coverage, Part
from keepwell.vault.walkeep import Holder, Span, anchor_of, unneeded

SEGMENT = 64 << 20
MEGABYTE = 1 << 20
DAY = dt.timedelta(days=1)
BEGIN = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


def parts_of(seed, segments):
    """What a receiver that is killed now and then puts, with its beginnings of segments, as objects of the first day."""
    choose = random.Random(seed)
    found, at, now = {}, SEGMENT, 0.0
    end = (1 + segments) * SEGMENT
    while at < end:
        intake = Intake(1, at, SEGMENT)
        for _ in range(choose.randint(1, 40)):
            data = bytes(min(choose.randint(1, 6 * MEGABYTE), end - intake.received))
            if data:
                intake.add(intake.received, data, now=now, time=BEGIN)
            now += choose.choice([0.1, 11.0])
            while piece := intake.next(now):
                name = f"{piece.start:X}-{piece.end:X}"
                segment = segment_name(1, piece.start, SEGMENT)
                found[name] = Part(1, piece.start, piece.end, name, piece.end - piece.start, BEGIN, segment)
                intake.stored(piece)
        at = intake.flushed
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_parts_that_a_longer_one_holds_go_and_no_byte_of_the_log_with_them(seed):
    assert SEGMENT > LARGEST
    parts = parts_of(seed, 2)
    before = Coverage(sorted(parts, key=lambda p: (p.timeline, p.start, -p.end)))
    backups = [Holder("b", "1", 1, SEGMENT, SEGMENT + 100, BEGIN, BEGIN)]
    span = Span(BEGIN + 30 * DAY, 7 * DAY, 3 * DAY)
    gone = unneeded("1", before, backups, anchor_of(backups, span), [], span, expected=True)
    assert gone.parts == ()
    dropped = {part.name for part, _ in gone.doubled}
    left = Coverage([part for part in before.parts if part.name not in dropped])
    assert left.spans(1) == before.spans(1) == [(SEGMENT, 3 * SEGMENT)]
    for part in left.parts:
        others = [p for p in left.parts if p is not part]
        assert not any(p.start <= part.start and part.end <= p.end for p in others), "superfluous, and not dropped"
    assert dropped
    assert all(whole.name not in dropped for _, whole in gone.doubled), "what stands for others stays"
