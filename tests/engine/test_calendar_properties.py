"""Whatever the schedule, the time zone and the pace of looking: each occurrence once, none skipped."""

import datetime as dt
import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st

from keepwell.engine.calendar import Plan, begins, missed, occurrences
from keepwell.policy.schedule import zone

BEGIN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
CHANGES = [
    # The first moments of summer and of winter time in 2026, in UTC.
    *(dt.datetime(2026, 3, 29, 1, tzinfo=dt.UTC), dt.datetime(2026, 10, 25, 1, tzinfo=dt.UTC)),
    *(dt.datetime(2026, 3, 8, 7, tzinfo=dt.UTC), dt.datetime(2026, 11, 1, 6, tzinfo=dt.UTC)),
    *(dt.datetime(2026, 4, 4, 15, tzinfo=dt.UTC), dt.datetime(2026, 10, 3, 15, 30, tzinfo=dt.UTC)),
]
DAILY = st.builds("{} {} * * {}".format, st.integers(0, 59), st.integers(0, 23), st.sampled_from(["*", "0", "1-5"]))
OFTEN = st.sampled_from(["*/15 * * * *", "0 * * * *", "30 */6 * * *", "5 1-4 * * *"])


@given(st.integers(0, 59), st.integers(0, 23), ZONES, st.sampled_from(CHANGES))
@example(30, 2, "Europe/Berlin", CHANGES[0])
@example(30, 2, "Europe/Berlin", CHANGES[1])
@example(15, 2, "Australia/Lord_Howe", CHANGES[5])
@example(45, 1, "Australia/Lord_Howe", CHANGES[4])
@settings(max_examples=30, deadline=None)
def test_a_daily_schedule_is_due_once_on_every_local_day_also_when_the_clocks_change(minute, hour, timezone, change):
    local = zone(timezone)
    plan = Plan("backup", "x", f"{minute} {hour} * * *", timezone)
    first, last = change - dt.timedelta(days=3), change + dt.timedelta(days=3)
    found = [job.due for job in occurrences(plan, first, last)]
    days = [due.astimezone(local).date() for due in found]
    assert days == [days[0] + dt.timedelta(days=n) for n in range(len(days))]
    assert len(days) >= 5
    for due in found:
        wall = due.astimezone(local)
        if (wall.hour, wall.minute) != (hour, minute):
            # The clock jumps over that time: due when it has jumped, or as long after as it would have been.
            before = (due - dt.timedelta(hours=3)).astimezone(local)
            assert wall.utcoffset() > before.utcoffset()
            assert dt.timedelta(0) <= wall.replace(tzinfo=None) - dt.datetime.combine(
                wall.date(), dt.time(hour, minute)
            ) <= dt.timedelta(hours=1)  # fmt: skip


@given(
    DAILY | OFTEN,
    ZONES,
    st.sampled_from(CHANGES),
    st.lists(st.integers(1, 60 * 30), min_size=3, max_size=15),
    st.sampled_from([0, 7, 14]),
)
@settings(max_examples=30, deadline=None)
def test_looks_at_any_pace_find_each_occurrence_once_and_pass_over_only_older_ones(
    cron, timezone, change, gaps, jitter
):
    plan = Plan("backup", "x", cron, timezone, dt.timedelta(minutes=jitter))
    looks = [change - dt.timedelta(days=2) + dt.timedelta(minutes=m) for m in itertools.accumulate(gaps)]
    found = []
    for last, now in itertools.pairwise(looks):
        job = missed(plan, last, now)
        ready = [
            other
            for other in occurrences(plan, last - plan.jitter - dt.timedelta(minutes=1), now)
            if last < begins(plan, other.due) <= now
        ]
        # At most one a look: the newest, however many were missed. None only where nothing was ready.
        assert [job] == ready[-1:] if ready else job is None
        found += [job.ident] if job else []
    assert len(found) == len(set(found))


@given(DAILY | OFTEN, ZONES, st.sampled_from(CHANGES))
@example("10,50 1,2 * * *", "Australia/Lord_Howe", CHANGES[4])
@settings(max_examples=8, deadline=None)
def test_looking_every_ten_minutes_misses_nothing(cron, timezone, change):
    plan = Plan("backup", "x", cron, timezone)
    looks = [change - dt.timedelta(hours=14) + dt.timedelta(minutes=10 * n) for n in range(160)]
    found = [job for last, now in itertools.pairwise(looks) if (job := missed(plan, last, now))]
    assert found == list(occurrences(plan, looks[0], looks[-1]))


@given(st.text("abcdef", min_size=1, max_size=8), st.integers(1, 86400), st.integers(0, 500))
@settings(max_examples=80, deadline=None)
def test_the_jitter_stays_below_its_limit_and_is_computed_from_the_identity_alone(name, seconds, days):
    due = BEGIN + dt.timedelta(days=days)
    here = Plan("backup", name, "0 2 * * *", "UTC", dt.timedelta(seconds=seconds))
    there = Plan("backup", name, "0 2 * * *", "Europe/Berlin", dt.timedelta(seconds=seconds), site="eu")
    assert due <= begins(here, due) < due + here.jitter
    assert begins(here, due) == begins(there, due)
