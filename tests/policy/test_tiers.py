import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwell.core.errors import UsageError
from keepwell.policy.models import Environment, SqliteSource
from keepwell.policy.tiers import choose_tier, due_tier

UTC = dt.UTC


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=UTC)


def run(days: list[str], timezone: str = "UTC") -> list[str]:
    """The tiers of backups taken one after the other."""
    taken: list[tuple[dt.datetime, str]] = []
    for day in days:
        taken.append((at(day), due_tier(at(day), taken, timezone)))
    return [tier for _, tier in taken]


def test_the_first_backup_of_all_is_monthly():
    assert due_tier(at("2026-11-18 02:00"), []) == "monthly"


def test_a_daily_schedule_gives_each_month_and_week_its_own():
    days = [f"2026-11-{day:02} 02:00" for day in range(1, 31)] + ["2026-12-01 02:00", "2026-12-02 02:00"]
    tiers = run(days)
    weekly = [day[8:10] for day, tier in zip(days, tiers, strict=True) if tier == "weekly"]
    assert [day for day, tier in zip(days, tiers, strict=True) if tier == "monthly"] == [days[0], days[30]]
    # Mondays; the 1st is a Sunday and monthly, so the week before has its backup.
    assert weekly == ["02", "09", "16", "23", "30"]
    assert tiers.count("daily") == 32 - 2 - 5


def test_a_monthly_backup_stands_for_its_week():
    assert run(["2026-12-01 02:00", "2026-12-02 02:00"]) == ["monthly", "daily"]


def test_a_weekly_schedule_never_gives_daily_backups():
    assert set(run([f"2026-{month:02}-{day:02} 02:00" for month in (10, 11) for day in (4, 11, 18, 25)])) == {
        "monthly",
        "weekly",
    }


def test_weeks_are_iso_weeks_across_the_turn_of_the_year():
    # 2026-12-28 to 2027-01-03 is week 53 of 2026.
    assert run(
        ["2026-12-29 02:00", "2026-12-31 02:00", "2027-01-01 02:00", "2027-01-02 02:00", "2027-01-04 02:00"]
    ) == [
        "monthly",
        "daily",
        "monthly",
        "daily",
        "weekly",
    ]


def test_months_and_weeks_are_those_of_the_time_zone():
    previous = [(at("2026-11-30 02:00"), "monthly")]
    late = at("2026-11-30 23:30")  # already December in Berlin, still November in UTC
    assert due_tier(late, previous, "Europe/Berlin") == "monthly"
    assert due_tier(late, previous, "UTC") == "daily"


def test_a_missed_day_does_not_miss_the_tier():
    assert run(["2026-11-01 02:00", "2026-11-04 02:00", "2026-12-05 02:00"]) == ["monthly", "weekly", "monthly"]


def test_manual_backups_use_up_no_tier():
    assert due_tier(at("2026-11-02 02:00"), [(at("2026-11-01 12:00"), "manual")]) == "monthly"


@given(
    st.lists(
        st.tuples(
            st.datetimes(dt.datetime(2026, 1, 1), dt.datetime(2026, 12, 31), timezones=st.just(UTC)),
            st.sampled_from(["daily", "weekly", "monthly", "manual"]),
        ),
        max_size=20,
    ),
    st.datetimes(dt.datetime(2026, 1, 1), dt.datetime(2026, 12, 31), timezones=st.just(UTC)),
)
def test_the_tier_is_what_the_calendar_says(previous, now):
    month = any(tier == "monthly" and time.month == now.month for time, tier in previous)
    monday = (now - dt.timedelta(days=now.weekday())).replace(hour=0, minute=0, second=0, microsecond=0)
    week = any(
        tier in {"weekly", "monthly"} and monday <= time < monday + dt.timedelta(days=7) for time, tier in previous
    )
    assert due_tier(now, previous) == ("monthly" if not month else "daily" if week else "weekly")


def environment(schedule: str | None) -> Environment:
    return Environment(schedule=schedule, sources={"app": SqliteSource(type="sqlite", path="/app.db")})


def test_without_a_schedule_a_backup_is_manual():
    assert choose_tier(environment(None), at("2026-11-01 02:00"), []) == "manual"
    assert choose_tier(environment("0 2 * * *"), at("2026-11-01 02:00"), []) == "monthly"


def test_a_tier_that_was_asked_for_is_given():
    assert choose_tier(environment("0 2 * * *"), at("2026-11-01 02:00"), [], "manual") == "manual"
    assert choose_tier(environment(None), at("2026-11-01 02:00"), [], "weekly") == "weekly"


def test_an_unknown_tier_names_the_nearest():
    with pytest.raises(UsageError, match="no tier 'weakly'") as caught:
        choose_tier(environment(None), at("2026-11-01 02:00"), [], "weakly")
    assert 'Did you mean "weekly"?' in caught.value.hint
