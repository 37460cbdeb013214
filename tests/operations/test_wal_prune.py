"""Prune and the log: what recovery to any moment of the window needs stays, and dry-run says what would be lost."""

import datetime as dt
import os

import pytest

from keepwell.core.clock import iso
from keepwell.core.wal import show_lsn
from keepwell.operations.prune import PruneRequest, prune
from keepwell.operations.wal_status import StatusRequest, wal_status
from keepwell.vault import prune as pruning
from support import wallog, workplace

SIZE = 1 << 20
SOURCE = """
[environments.production.sources.db]
type = "postgres"
method = "physical"
url = { env = "KEEPWELL_TEST_URL" }
"""
DAY = dt.timedelta(days=1)


@pytest.fixture
def place(tmp_path, monkeypatch):
    place = workplace.make(
        tmp_path / "work", environment='keep = { daily = "3d", manual = "3d", monthly = "365d" }', more=SOURCE
    )
    from keepwell.operations import prune as operation

    monkeypatch.setattr(operation, "store_now", lambda store: place.clock.now())
    monkeypatch.setattr(pruning, "store_now", lambda store: place.clock.now())
    return place


def stamp(place, name):
    """As if the store had made the object by the shifted clock."""
    when = place.clock.now().timestamp()
    os.utime(place.folder / "vault" / name, (when, when))


def put(place, number, *, timeline=1, start=0, end=SIZE):
    wal = place.vault().wal("production", "db", wallog.SYSTEM)
    known = set(place.objects("wal/"))
    data = wallog.segment(wallog.names(number, 1)[0])[start:end]
    wal.put(timeline, number * SIZE + start, data, segment_size=SIZE, time=place.clock.now())
    for name in set(place.objects("wal/")) - known:
        stamp(place, name)


def back_up(place, position, tier="daily"):
    """A backup of the source `db` alone, whose metadata says where in the log it is."""
    vault = place.vault()
    now = place.clock.now()
    with vault.begin(environment="production", tier=tier, now=now) as session:
        with_stream = session.sink("db").stream("content")
        with_stream.write(b"x" * 100)
        with_stream.close()
        wal = {
            "system": wallog.SYSTEM,
            "timeline": 1,
            "start": show_lsn(position),
            "stop": show_lsn(position + 1000),
            "segment_size": SIZE,
            "time": iso(now),
        }
        session.done("db", {"type": "physical", "bytes": 100, "streams": ["content"], "wal": wal})
        backup = session.commit(database="app", host="test", seconds=1.0)
    for name in (backup.metadata, backup.manifest):
        stamp(place, name)
    return backup


def run(place, **more):
    return prune(place.loaded, PruneRequest(**more), place.context())


def days_of(place, days=14):
    """A segment and a backup a day."""
    backups = []
    for number in range(days):
        backups.append(back_up(place, (10 + number) * SIZE + 100))
        put(place, 10 + number)
        place.clock.advance(days=1)
    return backups


def segments(place):
    coverage = place.vault().wal("production", "db", wallog.SYSTEM).coverage()
    return [part.start // SIZE for part in coverage.parts]


def test_the_backup_that_the_window_begins_with_stays_although_its_tier_keeps_less(place):
    backups = days_of(place)
    result = run(place)
    kept = {d.backup.id: d.reason for d in result.kept}
    assert str(backups[7].id) in kept
    assert (
        "recovery to any moment of the last 7 days of db begins with it (otherwise daily: older than 3 days)"
        in (kept[str(backups[7].id)])
    )
    assert {str(b.id) for b in backups[12:]} < set(kept)
    assert len(result.removed) == 10


def test_log_before_it_goes_once_the_condemned_backups_are_swept(place):
    days_of(place)
    run(place)
    # Condemned backups could be brought back, so what they began and ended in stays as long as they are there.
    assert segments(place) == list(range(10, 24))
    place.clock.advance(days=3)
    run(place)
    place.clock.advance(days=3)
    run(place)
    assert min(segments(place)) > 10


def test_what_a_prune_took_between_kept_backups_is_no_gap(place):
    back_up(place, 5 * SIZE + 100, "monthly")
    for number in range(5, 10):
        put(place, number)
    days_of(place)
    for _ in range(3):
        run(place)
        place.clock.advance(days=3)
    coverage = place.vault().wal("production", "db", wallog.SYSTEM).coverage()
    assert coverage.spans(1)[0] == (5 * SIZE, 6 * SIZE)
    assert coverage.gaps(1)
    assert gaps(place) == []
    for number in range(24, 27):
        put(place, number)
    assert gaps(place) == []
    middle = place.vault().wal("production", "db", wallog.SYSTEM).coverage().parts[-2]
    place.vault().store.delete(middle.name)
    assert gaps(place) == [(middle.start, middle.end)]


def gaps(place):
    (found,) = wal_status(place.loaded, StatusRequest(ask=False), place.context())
    assert any("a gap" in problem for problem in found.problems) == bool(found.clusters[0].gaps)
    return [(gap.start, gap.end) for gap in found.clusters[0].gaps]


def test_dry_run_says_from_when_to_when_and_changes_nothing(place):
    for number in range(20):
        if number % 4 == 0:
            back_up(place, (10 + number) * SIZE + 100)
        put(place, 10 + number)
        place.clock.advance(days=1)
    before = place.objects()
    result = run(place, dry_run=True)
    (log,) = result.log
    (lost,) = log.lost
    assert place.objects() == before
    assert log.parts > 0
    first = place.listed()[0]
    assert abs(lost.begin - first.time) < DAY / 100
    assert lost.end == place.listed()[3].time.replace(microsecond=0)
    document = result.json()["log"][0]
    assert document["lost"] == [{"system": wallog.SYSTEM, "from": iso(lost.begin), "to": iso(lost.end)}]
    real = run(place)
    assert [d.backup.id for d in real.removed] == [d.backup.id for d in result.removed]
    assert real.log[0].parts == log.parts
    assert len(place.objects("wal/")) == 20 - log.parts


@pytest.mark.slow
def test_every_moment_of_the_window_stays_recoverable(place):
    for number in range(24):
        backup = back_up(place, (10 + number) * SIZE + 100)
        put(place, 10 + number)
        place.clock.advance(days=1)
        if number % 3 == 2:
            run(place)
            oldest = min(place.listed(), key=lambda b: b.time)
            begin = 10 + round((oldest.time - place.clock.now()) / DAY) + number + 1
            assert set(range(begin, 11 + number)) <= set(segments(place))
            assert number < 8 or place.clock.now() - oldest.time >= dt.timedelta(days=7)
            assert len(place.listed()) < 8
    assert backup.id in {b.id for b in place.listed()}
    assert min(segments(place)) > 15


def test_parts_go_when_the_segment_is_whole(place):
    back_up(place, 10 * SIZE + 5)
    put(place, 10, end=5000)
    put(place, 10, start=5000)
    put(place, 10)
    assert len(place.objects("wal/")) == 3
    place.clock.advance(days=3)
    result = run(place, dry_run=True)
    assert (result.log[0].parts, result.log[0].doubled) == (2, 2)
    assert result.log[0].lost == []
    run(place)
    assert len(place.objects("wal/")) == 1
    assert segments(place) == [10]


def test_a_damaged_segment_does_not_stand_for_its_parts(place):
    back_up(place, 10 * SIZE + 5)
    put(place, 10, end=5000)
    put(place, 10)
    whole = next(n for n in place.objects("wal/") if n.endswith(f"{11 * SIZE:016X}"))
    path = place.folder / "vault" / whole
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    place.clock.advance(days=3)
    stamp_back = place.clock.now() - 3 * DAY
    os.utime(path, (stamp_back.timestamp(), stamp_back.timestamp()))
    assert run(place).log[0].parts == 0
    assert len(place.objects("wal/")) == 2


def test_a_second_prune_finds_nothing_more(place):
    days_of(place)
    place.clock.advance(days=10)
    run(place)
    place.clock.advance(days=10)
    run(place)
    run(place)
    again = run(place)
    assert again.log[0].parts == 0


def test_without_physical_sources_and_log_nothing_is_said(place):
    place.write_policy(more=" ")
    place.backup()
    assert run(place).log == ()


def test_an_environment_that_the_policy_does_not_know_keeps_its_log(place):
    wal = place.vault().wal("elsewhere", "db", wallog.SYSTEM)
    wal.put(1, SIZE, b"log", segment_size=SIZE, time=place.clock.now())
    place.clock.advance(days=900)
    run(place)
    assert len(place.objects("wal/elsewhere/")) == 1


def test_beside_a_damaged_backup_no_log_goes(place, tmp_path, monkeypatch):
    days_of(place)
    metadata = max((place.folder / "vault").glob("production/daily/*/*/metadata.json"))
    raw = metadata.read_text()
    metadata.unlink()
    metadata.write_text(raw.replace('"complete"', '"compIete"'))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    before = segments(place)
    run(place)
    place.clock.advance(days=2)
    run(place)
    assert segments(place) == before
    assert any("all of its log stays" in text for text in place.progress.warnings)
