"""The log in copies of the vault: brought, read back, kept as the copy's own rules say."""

import datetime as dt

import pytest

from keepwell.operations import copy as copying
from keepwell.operations import prune as operation
from keepwell.operations.copy import CopyRequest, copy
from keepwell.vault import prune as pruning
from operations.test_wal_prune import SIZE, SOURCE, back_up, put
from support import wallog, workplace

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path, monkeypatch):
    more = '\n[[copies]]\nname = "far"\nstore = "file:///{}/far"\nkeep = {{ daily = "3d", manual = "3d" }}\n'
    place = workplace.make(
        tmp_path / "work",
        environment='keep = { daily = "30d", manual = "30d" }',
        more=SOURCE + more.format(str(tmp_path / "work").lstrip("/")),
    )
    for module in (operation, copying, pruning):
        monkeypatch.setattr(module, "store_now", lambda store: place.clock.now())
    return place


def days_of(place, days):
    """A backup a day, and four segments after each."""
    for day in range(days):
        back_up(place, (4 * day) * SIZE + 100)
        for number in range(4 * day, 4 * day + 4):
            put(place, number)
        place.clock.advance(days=1)


def log_in(place, vault):
    folder = place.folder / vault
    return {str(path.relative_to(folder)) for path in folder.glob("wal/**/*") if path.is_file()}


def test_what_the_backups_of_the_copy_need_is_brought_once(place):
    days_of(place, 4)
    (outcome,) = copy(place.loaded, CopyRequest(), place.context()).copies.values()
    assert outcome.clean
    there = log_in(place, "far")
    assert there == log_in(place, "vault")
    assert len(there) == 16
    (again,) = copy(place.loaded, CopyRequest(), place.context()).copies.values()
    assert (again.report.objects, again.clean) == (0, True)
    put(place, 16)
    (outcome,) = copy(place.loaded, CopyRequest(), place.context()).copies.values()
    assert outcome.report.objects == 1
    assert log_in(place, "far") == log_in(place, "vault")


def test_what_only_older_backups_of_the_first_vault_need_stays_there(place):
    days_of(place, 12)
    copy(place.loaded, CopyRequest(), place.context())
    far, near = log_in(place, "far"), log_in(place, "vault")
    assert far < near
    # Seven days of any moment, from the backup that they begin with.
    assert 4 * 7 <= len(far) <= 4 * 10
    before = sorted(far)
    copy(place.loaded, CopyRequest(), place.context())
    assert sorted(log_in(place, "far")) == before


def test_an_object_with_other_bytes_is_an_error_and_the_rest_is_brought(place):
    days_of(place, 2)
    copy(place.loaded, CopyRequest(), place.context())
    put(place, 8)
    victim = place.folder / "far" / min(log_in(place, "far"))
    data = bytearray(victim.read_bytes())
    victim.unlink()
    victim.write_bytes(bytes(data[:-1]))
    (outcome,) = copy(place.loaded, CopyRequest(), place.context()).copies.values()
    assert not outcome.clean
    assert [name for name in outcome.report.failed if name.endswith(victim.name)]
    assert len(log_in(place, "far")) == 9


def test_the_log_can_be_read_from_the_copy_alone(place):
    days_of(place, 2)
    copy(place.loaded, CopyRequest(), place.context())
    (place.folder / "vault").rename(place.folder / "away")
    from keepwell.operations.opening import open_for_reading

    progress = place.context().progress
    wal = open_for_reading(place.loaded, progress).wal("production", "db", wallog.SYSTEM)
    coverage = wal.coverage()
    assert len(coverage.parts) == 8
    assert dt.datetime.min.replace(tzinfo=dt.UTC) < coverage.parts[0].modified
