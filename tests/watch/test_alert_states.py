"""One message for each change of state: from what rules find to what people are told."""

import dataclasses
import datetime as dt

from keepwell.core.clock import UTC
from keepwell.watch.seen import Symptom
from keepwell.watch.state import Alert, Manner, Silence, acknowledge, advance

NOW = dt.datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = dt.timedelta(minutes=1), dt.timedelta(hours=1), dt.timedelta(days=1)
MISSING = Symptom("backup-missing", "production", "failure", "no backup", "take one", "production")
STORE = Symptom("store-unreachable", "store", "failure", "no answer", "look", patience=5 * MINUTE)
ODD = Symptom("size-unusual", "production/app", "warning", "small", "look", "production")


class Watch:
    """Plays looks one after the other and keeps what was told."""

    def __init__(self, **manner):
        self.now, self.alerts, self.told, self.silences = NOW, {}, [], []
        self.manner = Manner(**manner)

    def look(self, *symptoms, after=MINUTE, blind=()):
        self.now += after
        turn = advance(
            self.alerts, symptoms, self.now, blind=frozenset(blind), silences=self.silences, manner=self.manner
        )
        self.alerts = turn.alerts
        new = [f"{event.kind} {event.alert.key}" for event in turn.events]
        self.told += new
        return new


def test_a_trouble_is_told_once_and_once_when_it_is_over():
    watch = Watch()
    assert watch.look(MISSING) == ["opened backup-missing:production"]
    assert [watch.look(MISSING) for _ in range(60)] == [[]] * 60
    assert watch.look() == ["over backup-missing:production"]
    assert watch.look() == []
    assert watch.look(MISSING) == ["opened backup-missing:production"]


def test_the_second_time_is_another_incident():
    watch = Watch()
    watch.look(MISSING)
    first = watch.alerts["backup-missing:production"].incident
    watch.look(dataclasses.replace(MISSING, text="still no backup"))
    assert watch.alerts["backup-missing:production"].incident == first
    watch.look()
    assert watch.alerts["backup-missing:production"].incident == first
    watch.look(MISSING)
    assert watch.alerts["backup-missing:production"].incident != first


def test_it_began_when_the_rule_says_and_not_when_it_was_seen():
    watch = Watch()
    watch.look(dataclasses.replace(MISSING, since=NOW - DAY))
    assert watch.alerts["backup-missing:production"].since == NOW - DAY


def test_a_short_disturbance_of_the_store_is_told_to_nobody():
    watch = Watch()
    for _ in range(5):
        assert watch.look(STORE) == []
    assert watch.look() == []
    assert watch.told == []


def test_a_long_one_is_told_after_its_patience():
    watch = Watch()
    told = [watch.look(STORE) for _ in range(7)]
    assert told == [[]] * 5 + [["opened store-unreachable:store"], []]


def test_what_is_a_part_of_another_trouble_is_not_told_while_that_lasts_and_an_hour_after():
    watch = Watch()
    part = dataclasses.replace(MISSING, held_by=("store-unreachable:store",))
    for _ in range(10):
        watch.look(STORE)
    assert watch.look(STORE, part) == []
    assert watch.look(part) == ["over store-unreachable:store"]
    assert watch.look(part, after=59 * MINUTE) == []
    assert watch.look(part, after=2 * MINUTE) == ["opened backup-missing:production"]


def test_what_heals_within_that_hour_is_never_told():
    watch = Watch()
    part = dataclasses.replace(MISSING, held_by=("store-unreachable:store",))
    for _ in range(10):
        watch.look(STORE, part)
    watch.look(part)
    watch.look(after=30 * MINUTE)
    assert watch.told == ["opened store-unreachable:store", "over store-unreachable:store"]


def test_what_cannot_be_looked_at_stays_as_it_is():
    watch = Watch()
    watch.look(MISSING)
    assert watch.look(blind=["backup-missing"]) == []
    assert watch.alerts["backup-missing:production"].is_open
    assert watch.look() == ["over backup-missing:production"]


def test_an_open_failure_is_told_again_every_day_and_a_warning_every_week():
    watch = Watch()
    watch.look(MISSING, ODD)
    told = [watch.look(MISSING, ODD, after=HOUR) for _ in range(24 * 7)]
    flat = [line for lines in told for line in lines]
    assert flat.count("reminder backup-missing:production") == 7
    assert flat.count("reminder size-unusual:production/app") == 1


def test_reminders_come_also_while_the_rule_cannot_look():
    watch = Watch()
    watch.look(MISSING)
    assert watch.look(blind=["backup-missing"], after=DAY) == ["reminder backup-missing:production"]


def test_worse_is_told_again_and_takes_the_acknowledgement_back():
    watch = Watch()
    watch.look(ODD)
    key = "size-unusual:production/app"
    watch.alerts[key] = acknowledge(watch.alerts[key], "ann", "known", watch.now)
    assert watch.look(dataclasses.replace(ODD, severity="failure")) == [f"worse {key}"]
    assert watch.alerts[key].acknowledged == ""
    assert watch.look(ODD) == []


def test_contacts_are_told_one_after_the_other_until_somebody_acknowledges():
    watch = Watch(steps=(dt.timedelta(0), 30 * MINUTE, 2 * HOUR))
    assert watch.look(MISSING) == ["opened backup-missing:production"]
    assert watch.look(MISSING, after=29 * MINUTE) == []
    assert watch.look(MISSING) == ["escalated backup-missing:production"]
    key = "backup-missing:production"
    assert watch.alerts[key].step == 2
    watch.alerts[key] = acknowledge(watch.alerts[key], "ann", "on it", watch.now)
    assert watch.look(MISSING, after=DAY) == []
    assert watch.look() == ["over backup-missing:production"]


def test_a_watch_that_was_away_tells_every_contact_that_is_due():
    watch = Watch(steps=(dt.timedelta(0), 30 * MINUTE, 2 * HOUR))
    watch.look(MISSING)
    told = watch.look(MISSING, after=3 * HOUR)
    assert told == ["escalated backup-missing:production"] * 2
    assert watch.look(MISSING) == []


def test_warnings_are_not_escalated():
    watch = Watch(steps=(dt.timedelta(0), 30 * MINUTE))
    watch.look(ODD)
    assert watch.look(ODD, after=HOUR) == []


def test_a_silence_keeps_quiet_until_its_end_and_then_what_is_still_there_is_told():
    watch = Watch()
    watch.silences = [Silence("backup-missing:*", NOW + DAY)]
    assert watch.look(MISSING, ODD) == ["opened size-unusual:production/app"]
    assert watch.look(MISSING, ODD, after=23 * HOUR) == []
    assert watch.look(MISSING, ODD, after=2 * HOUR) == ["opened backup-missing:production"]


def test_what_began_and_ended_in_silence_is_never_told():
    watch = Watch()
    watch.silences = [Silence("production", NOW + DAY)]
    assert watch.look(MISSING, ODD) == []
    assert watch.look() == []


def test_a_clock_that_goes_back_tells_nothing_twice():
    watch = Watch(steps=(dt.timedelta(0), 30 * MINUTE))
    watch.look(MISSING)
    assert watch.look(MISSING, after=-DAY) == []
    assert watch.look(after=MINUTE) == ["over backup-missing:production"]


def test_a_state_survives_being_written_down():
    watch = Watch()
    watch.look(dataclasses.replace(MISSING, since=NOW - DAY))
    alert = watch.alerts["backup-missing:production"]
    assert Alert.from_json(alert.json()) == alert
    assert Alert.from_json(alert.json() | {"from_a_later_version": 1}) == alert


def test_what_is_long_over_is_forgotten():
    watch = Watch()
    watch.look(MISSING)
    watch.look()
    watch.look(after=89 * DAY)
    assert watch.alerts
    watch.look(after=2 * DAY)
    assert not watch.alerts
