"""What becomes due is enqueued once, whatever the clock and the process did meanwhile."""

import datetime as dt

import pytest

from keepwell.core.clock import FakeClock
from keepwell.engine.database import sqlite_at
from keepwell.engine.ledger import EngineError, Ledger
from keepwell.engine.planner import Planner
from support import workplace


@pytest.fixture
def ledger(tmp_path):
    found = Ledger(sqlite_at(tmp_path / "engine.db"))
    found.prepare()
    found.prepare()  # of several processes each does it
    yield found
    found.close()


class Planned:
    def __init__(self, folder, ledger, schedule="0 2 * * *"):
        place = workplace.Workplace(folder)
        place.write_policy(environment=f'schedule = "{schedule}"')
        self.loaded, self.clock, self.backups = (
            place.loaded,
            FakeClock(dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)),
            [],
        )
        self.broken = False
        self.planner = Planner(lambda: self.loaded, ledger, self.enqueue, self.clock)

    def enqueue(self, job):
        if self.broken:
            raise EngineError("not now")
        if job.kind == "backup":
            self.backups.append(job.ident)

    def look(self, **later):
        """The backups that this look found to be due."""
        self.clock.advance(dt.timedelta(**later))
        self.backups.clear()
        self.planner.look()
        return list(self.backups)


def test_a_new_plan_begins_now_and_each_time_is_due_once(tmp_path, ledger):
    planned = Planned(tmp_path, ledger)
    assert planned.look() == []
    assert planned.look(hours=13, minutes=59) == []
    assert planned.look(minutes=1) == ["backup/production/20261121T020000Z"]
    assert planned.look(seconds=10) == []
    assert planned.look(days=1) == ["backup/production/20261122T020000Z"]


def test_after_a_week_without_power_the_newest_run_is_caught_up_and_no_other(tmp_path, ledger):
    planned = Planned(tmp_path, ledger)
    planned.look()
    assert planned.look(days=7) == ["backup/production/20261127T020000Z"]
    assert planned.look(minutes=1) == []


def test_what_could_not_be_enqueued_is_enqueued_at_the_next_look(tmp_path, ledger):
    planned = Planned(tmp_path, ledger)
    planned.look()
    planned.broken = True
    with pytest.raises(EngineError):
        planned.look(hours=14)
    planned.broken = False
    assert planned.look(seconds=10) == ["backup/production/20261121T020000Z"]


def test_a_clock_that_was_a_year_ahead_for_a_moment_does_not_stop_the_plans(tmp_path, ledger):
    planned = Planned(tmp_path, ledger)
    planned.look()
    planned.look(days=365)
    assert planned.look(days=-365) == []
    assert planned.look(hours=14) == ["backup/production/20261121T020000Z"]


def test_two_processes_that_plan_find_the_same_runs(tmp_path, ledger):
    one, two = Planned(tmp_path, ledger), Planned(tmp_path, ledger)
    one.look()
    two.clock.advance(dt.timedelta(hours=14))
    one.clock.advance(dt.timedelta(hours=14))
    found = two.look()
    assert found == ["backup/production/20261121T020000Z"]
    assert one.look() == []  # the other has marked it; had both looked at once, the identity would be the same
