import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwell.policy.schedule import longest_gap, next_due, parse, previous_due, zone

UTC = dt.UTC


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "after", "due"),
    [
        ("0 2 * * *", "2026-11-22 01:59", "2026-11-22 02:00"),
        ("0 2 * * *", "2026-11-22 02:00", "2026-11-23 02:00"),
        ("0 2 * * 0", "2026-11-23 00:00", "2026-11-29 02:00"),
        ("0 2 * * 7", "2026-11-23 00:00", "2026-11-29 02:00"),
        ("0 2 * * sun", "2026-11-23 00:00", "2026-11-29 02:00"),
        ("*/15 * * * *", "2026-11-22 02:01", "2026-11-22 02:15"),
        ("0 0 1 jan,jul *", "2026-11-22 00:00", "2027-01-01 00:00"),
        ("0 9-17/4 * * mon-fri", "2026-11-20 17:30", "2026-11-23 09:00"),
        ("0 2 29 2 *", "2026-11-22 00:00", "2028-02-29 02:00"),
    ],
)
def test_the_next_due_time_is_the_first_after_the_moment(schedule, after, due):
    assert next_due(schedule, at(after)) == at(due)


def test_the_previous_due_time_may_be_this_moment():
    assert previous_due("0 2 * * *", at("2026-11-22 02:00")) == at("2026-11-22 02:00")
    assert previous_due("0 2 * * *", at("2026-11-22 01:59")) == at("2026-11-21 02:00")
    assert previous_due("0 2 * * *", at("2026-11-22 02:00") + dt.timedelta(microseconds=5)) == at("2026-11-22 02:00")


def test_due_times_follow_the_clock_on_the_wall():
    assert next_due("0 2 * * *", at("2026-07-01 12:00"), "Europe/Berlin") == at("2026-07-02 00:00")
    assert next_due("0 2 * * *", at("2026-12-01 12:00"), "Europe/Berlin") == at("2026-12-02 01:00")


def test_a_time_that_spring_skips_is_due_when_the_clock_has_jumped():
    assert next_due("30 2 * * *", at("2026-03-28 12:00"), "Europe/Berlin") == at("2026-03-29 01:00")
    assert next_due("30 2 * * *", at("2026-03-29 01:00"), "Europe/Berlin") == at("2026-03-30 00:30")


def test_a_time_that_autumn_has_twice_is_due_once():
    first = next_due("30 2 * * *", at("2026-10-24 12:00"), "Europe/Berlin")
    assert first == at("2026-10-25 00:30")
    assert next_due("30 2 * * *", first, "Europe/Berlin") == at("2026-10-26 01:30")
    assert previous_due("30 2 * * *", at("2026-10-25 12:00"), "Europe/Berlin") == first


def test_an_hourly_schedule_has_both_hours_of_autumn():
    first = next_due("0 * * * *", at("2026-10-24 23:30"), "Europe/Berlin")
    second = next_due("0 * * * *", first, "Europe/Berlin")
    assert (first, second) == (at("2026-10-25 00:00"), at("2026-10-25 01:00"))


@given(
    st.sampled_from(["0 2 * * *", "30 2 * * 0", "*/20 * * * *", "15 1,2,3 * * *", "0 0 1 * *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2030, 1, 1), timezones=st.just(UTC)),
)
def test_next_and_previous_agree_with_each_other(schedule, timezone, moment):
    due = next_due(schedule, moment, timezone)
    last = previous_due(schedule, moment, timezone)
    assert last <= moment < due
    assert previous_due(schedule, due, timezone) == due
    assert previous_due(schedule, due - dt.timedelta(microseconds=1), timezone) == last
    assert next_due(schedule, last, timezone) == due


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("0 2 * *", "'0 2 * *' has 4 fields instead of five"),
        ("0 2 * * * *", "has 6 fields instead of five"),
        ("0 25 * * *", "'25' does not fit the hour (0 to 23)"),
        ("60 2 * * *", "'60' does not fit the minute (0 to 59)"),
        ("0 2 0 * *", "'0' does not fit the day of the month"),
        ("0 2 * 13 *", "'13' does not fit the month"),
        ("0 2 * * 8", "'8' does not fit the day of the week"),
        ("0 2 * * so", "'so' does not fit the day of the week"),
        ("0 mon * * *", "'mon' does not fit the hour"),
        ("0 5-2 * * *", "'5-2' runs backwards"),
        ("*/0 2 * * *", "'*/0' has a step that is not"),
        ("0 */24 * * *", "'*/24' has a step that is not"),
        ("H 2 * * *", "'h' does not fit the minute"),
        ("R 2 * * *", "'r' does not fit the minute"),
        ("0 2 31 2 *", "never comes: there is no such day"),
        ("@daily", "is not written as five fields"),
        ("", "has 0 fields"),
    ],
)
def test_what_is_no_schedule_is_refused_and_the_five_fields_are_shown(text, what):
    with pytest.raises(ValueError) as caught:
        parse(text)
    first, second = str(caught.value).split("\n")
    assert what in first
    assert (
        "five fields: minute (0-59), hour (0-23), day of the month (1-31), month (1-12), day of the week (0-7" in second
    )


def test_the_mend_of_a_nickname_is_its_five_fields():
    with pytest.raises(ValueError, match=r"Write '0 0 \* \* 0'"):
        parse("@weekly")


def test_the_longest_gap_is_what_is_at_risk():
    assert longest_gap("0 2 * * *", at("2024-01-01 00:00")) == dt.timedelta(days=1)
    assert longest_gap("0 2 * * 0", at("2024-01-01 00:00")) == dt.timedelta(days=7)
    assert longest_gap("0 2 * * 1-5", at("2024-01-01 00:00")) == dt.timedelta(days=3)
    assert longest_gap("0 2 1 * *", at("2024-01-01 00:00")) == dt.timedelta(days=31)


@pytest.mark.parametrize("name", ["Mars/Phobos", "", "../etc/passwd", "/etc/localtime"])
def test_what_is_no_time_zone_is_refused(name):
    with pytest.raises(ValueError, match="is not a time zone"):
        zone(name)


def test_utc_needs_no_time_zone_database(monkeypatch):
    monkeypatch.setattr("zoneinfo.ZoneInfo", None)
    assert zone("UTC") is UTC


def test_previous_passes_over_nothing_where_the_clock_goes_back_by_half_an_hour():
    """Lord Howe: 1:30 to 1:59 come twice. A library that steps backwards by the clock on the wall lost 1:40 there."""
    due = [at("2027-04-03 14:20"), at("2027-04-03 14:40"), at("2027-04-03 15:30")]
    schedule, timezone = "*/20 1-3 * * *", "Australia/Lord_Howe"
    assert next_due(schedule, due[0], timezone) == due[1]
    assert next_due(schedule, due[1], timezone) == due[2]
    assert previous_due(schedule, due[2] - dt.timedelta(minutes=1), timezone) == due[1]


def test_a_day_that_an_island_skips_is_made_up_for_when_the_next_begins():
    """Samoa had no December 30th 2011: the midnight that was skipped is the midnight that came."""
    noon = "0 12 * * *"
    assert next_due(noon, at("2011-12-29 23:00"), "Pacific/Apia") == at("2011-12-30 10:00")
    assert next_due(noon, at("2011-12-30 10:00"), "Pacific/Apia") == at("2011-12-30 22:00")
