"""More than a year of everything that runs by itself, on a clock that passes at once.

A machine serves three environments into one vault and two copies: backups, proofs, prune, checks, copies and drills, with the
planner, the retries and the watch of `keepwell serve`. After every run each vault must hold what a model of the policy,
written anew, says; and of each outage people hear once, and once that it is over.
"""

import datetime as dt
import functools
import os
import shutil
import tempfile
import zoneinfo
from pathlib import Path

import pytest
from year_model import Model, Taken, days, tier_of
from year_world import DAY, HOUR, MINUTE, Down, World, at

from keepwell.operations.opening import open_vault
from keepwell.watch.answers import record

# The whole takes ten minutes; what CI has time for ends after the first two outages.
WHOLE = bool(os.environ.get("KEEPWELL_TEST_YEAR"))
START, END = at("2027-01-04T08:00"), at("2028-01-20T12:00") if WHOLE else at("2027-04-01T00:00")
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
AGE = {"production": days(30), "staging": days(14), "development": days(7)}
DEFAULTS = {
    "staging": {tier: (days(14), None) for tier in ("daily", "weekly", "monthly", "manual")},
    "development": {tier: (days(7), None) for tier in ("daily", "weekly", "monthly", "manual")},
}
NEAR = {
    "production": {
        "daily": (days(30), None),
        "weekly": (None, 12),
        "monthly": (days(200), 3),
        "manual": (days(30), None),
    },
    **DEFAULTS,
}
OFFSITE = {"daily": (days(7), None), "weekly": (None, 6), "monthly": (None, 20), "manual": (None, 1)}
ATTIC = {"daily": (None, 1), "weekly": (None, 1), "monthly": (None, 3), "manual": (None, 1)}


TOLD = [
    ("opened", "store-unreachable:store"),
    ("over", "store-unreachable:store"),
    ("opened", "backup-missing:production"),  # nothing ran for a week
    ("over", "backup-missing:production"),
    ("opened", "clock-off:clock"),
    ("over", "clock-off:clock"),
    ("opened", "backup-incomplete:production"),  # a source of two
    ("over", "backup-incomplete:production"),
    ("opened", "run-failed:staging/backup"),  # the only one
    ("opened", "review-overdue:strategy"),
    ("over", "run-failed:staging/backup"),
    ("opened", "run-failed:offsite/copy"),
    ("over", "run-failed:offsite/copy"),
    ("over", "review-overdue:strategy"),
    ("opened", "clock-off:clock"),
    ("over", "clock-off:clock"),
]
"""What people hear, in this order: of each outage once, and once that it is over."""


class Auditor:
    """Compares each vault with its model after every run."""

    def __init__(self, world):
        self.world = world
        self.near = Model(NEAR)
        self.copies = {"offsite": Model(dict.fromkeys(NEAR, OFFSITE)), "attic": Model(dict.fromkeys(NEAR, ATTIC))}
        self.runs, self.compared, self.condemned = [], 0, {}
        world.after_job = self.after

    def after(self, job, result):
        now = self.world.clock.now()
        if result["result"] != "failed":
            if job.kind == "backup":
                self.runs.append(job.ident)
            elif job.kind in {"verify", "drill"}:
                self.near.prove_newest(job.environment)
            elif job.kind == "prune":
                gone = self.near.prune(now)
                self.deleted_for_good(gone, now)
            elif job.kind == "copy":
                copy = self.copies[job.environment]
                for backup in copy.wanted(self.near, now):
                    copy.take(backup)
                copy.prune(now)
        self.compare(job, now)

    def compare(self, job, now):
        listed = self.world.listed("near")
        for ident, backup in sorted(listed.items(), key=lambda item: item[1].time):
            if ident not in self.near.there:
                environment = backup.id.environment
                earlier = self.near.of(environment)
                if environment != "development":
                    assert abs(backup.time - now) < 30 * MINUTE + abs(self.world.machine.apart)
                tier = "manual"
                if environment != "development":
                    zone = "Europe/Berlin" if environment == "staging" else "UTC"
                    tier = tier_of(backup.time, earlier, zone)
                assert backup.tier == tier
                self.near.take(Taken(ident, environment, tier, backup.time, backup.status == "complete"))
        self.same(listed, self.near, "near")
        for name, model in self.copies.items() if job.kind in {"copy", "prune"} else ():
            self.same(self.world.listed(name), model, name)
        self.compared += 1

    def same(self, listed, model, name):
        there = {ident: (b.tier, b.proven) for ident, b in listed.items()}
        wanted = {ident: (b.tier, b.proven) for ident, b in model.there.items()}
        assert there == wanted, f"{name} at {self.world.clock.now()}"

    def deleted_for_good(self, gone, now):
        """What a prune took out of the list is deleted by the next, when the grace time of a day is over."""
        self.condemned |= dict.fromkeys(gone, now)
        for ident in [ident for ident, since in self.condemned.items() if now - since >= DAY]:
            environment, name = ident.split("/")
            day, rest = name.split("T")
            left = [
                name
                for name in self.world.store("file:///near").inner.objects
                if name.startswith(f"{environment}/") and f"/{day[:4]}-{day[4:6]}-{day[6:]}/{rest}/" in name
            ]
            assert left == []
            del self.condemned[ident]


@pytest.fixture
def world(monkeypatch):
    # Thousands of small commits to SQLite files: in memory, where there is some.
    folder = Path(tempfile.mkdtemp(prefix="keepwell-year-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        yield World(folder, monkeypatch, START)
    finally:
        shutil.rmtree(folder)


def outage(world, begin, end, *, breaks, mends):
    def begins():
        world.trouble += 1
        breaks()

    def ends():
        mends()
        world.at(end + 3 * HOUR, quiet)

    def quiet():
        world.trouble -= 1

    world.at(begin, begins)
    world.at(end, ends)


def store_down(world, name, begin, end):
    store = world.store(f"file:///{name}")
    outage(
        world,
        begin,
        end,
        breaks=lambda: setattr(store, "plan", Down()),
        mends=lambda: setattr(store, "plan", {}),
    )


def source_gone(world, name, begin, end):
    outage(
        world,
        begin,
        end,
        breaks=lambda: world.sources.lose(name),
        mends=lambda: world.sources.bring_back(name),
    )


def clock_wrong(world, begin, end, by):
    outage(
        world,
        begin,
        end,
        breaks=lambda: setattr(world.machine, "apart", by),
        mends=lambda: setattr(world.machine, "apart", dt.timedelta(0)),
    )


def daily_work(world):
    moment = START.replace(hour=20, minute=0)
    while moment < END:
        world.at(moment, functools.partial(world.sources.write, moment.date()))
        if moment.weekday() == 4:
            world.at(moment + HOUR, lambda: world.by_hand("development"))
        moment += DAY


def people(world):
    """They go through the strategy each quarter, and try the key; once they forget."""
    for day in ("2027-03-20", "2027-07-20", "2027-10-15", "2028-01-10"):
        world.at(at(f"{day}T10:00"), lambda: record(world.loaded, world.context, "review", None))
    slot = open_vault(world.loaded).key_slots()[0].id
    world.at(at("2027-11-02T10:00"), lambda: record(world.loaded, world.context, "key", slot))


@pytest.mark.slow
@pytest.mark.timeout(3000 if WHOLE else 300)
def test_a_year(world):
    auditor = Auditor(world)
    daily_work(world)
    people(world)
    store_down(world, "near", at("2027-02-09T10:00"), at("2027-02-12T14:00"))
    outage(world, at("2027-03-22T12:00"), at("2027-03-29T12:00"), breaks=world.stop, mends=world.start)
    clock_wrong(world, at("2027-05-12T23:00"), at("2027-05-13T09:30"), 5 * HOUR)
    source_gone(world, "uploads", at("2027-06-08T12:00"), at("2027-06-11T12:00"))
    source_gone(world, "staging.db", at("2027-06-19T12:00"), at("2027-06-26T12:00"))
    store_down(world, "offsite", at("2027-07-09T12:00"), at("2027-07-14T12:00"))
    store_down(world, "near", at("2027-08-03T01:59"), at("2027-08-03T02:03"))  # a blip: nobody is woken
    clock_wrong(world, at("2027-09-15T04:00"), at("2027-09-15T12:00"), -3 * HOUR)
    world.at(START, world.start)
    world.until(END)
    told = [(news.kind, news.alert) for news in world.news()]
    assert told == (TOLD if WHOLE else TOLD[:4])
    assert auditor.compared > len(auditor.runs) > 80
