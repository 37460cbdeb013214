"""Each rule says what is not well, and is silent when it is well."""

import dataclasses
import datetime as dt

import pytest

from keepwell.core.clock import UTC
from keepwell.watch.rules import RULES, blind, examine
from keepwell.watch.seen import (
    ChannelSeen,
    CopySeen,
    EnvironmentSeen,
    KeySeen,
    Point,
    ProviderSeen,
    RunSeen,
    Seen,
    StoreSeen,
    WalSeen,
)

NOW = dt.datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DAY, HOUR = dt.timedelta(days=1), dt.timedelta(hours=1)


def point(at: dt.datetime, *, complete=True, seconds=60.0, failed=(), **sources):
    return Point(f"production/{at:%Y%m%dT%H%M%SZ}-7f3a", at, complete, seconds, sources or {"app": 50_000_000}, failed)


def production(**changes):
    daily = tuple(point(NOW.replace(hour=2) - n * DAY) for n in reversed(range(20)))
    usual = {
        "backups": daily,
        "proven": daily[-1],
        "proof_time": daily[-1].time + HOUR,
        "proof_within": 35 * DAY,
        "recovery": 600.0,
        "schedule": "0 2 * * *",
    }
    return EnvironmentSeen("production", **(usual | changes))


def seen(env=None, *, now=NOW, **changes):
    well = StoreSeen("s3://backups", None, 10, 100, 80, 1.0)
    usual = {"environments": (env or production(),), "store": well, "made": NOW - 20 * DAY}
    return Seen(now, "Leads", **(usual | changes))


def found(what: Seen):
    return {symptom.key: symptom for symptom in examine(what)}


def test_nothing_is_said_when_all_is_well():
    assert examine(seen()) == []


def test_a_backup_is_missing_25_hours_after_the_last_one_of_a_daily_schedule():
    env = production()
    due = NOW.replace(hour=2) + DAY
    assert found(seen(env, now=due + HOUR - dt.timedelta(seconds=1))) == {}
    (symptom,) = found(seen(env, now=due + HOUR)).values()
    assert (symptom.key, symptom.severity, symptom.since) == ("backup-missing:production", "failure", due)
    assert "keepwell backup production" in symptom.hint


def test_a_missing_backup_is_missing_since_the_first_one_that_did_not_come():
    symptom = found(seen(now=NOW + 6 * DAY))["backup-missing:production"]
    assert symptom.since == NOW.replace(hour=2) + DAY
    assert "6 days" in symptom.text


def test_a_due_time_skipped_by_the_change_to_summer_time_is_not_missing_before_it_came():
    env = EnvironmentSeen(
        "production",
        "30 2 * * *",
        "Europe/Berlin",
        backups=(point(dt.datetime(2026, 3, 28, 1, 30, tzinfo=UTC)),),
    )
    jumped = dt.datetime(2026, 3, 29, 1, 0, tzinfo=UTC)  # 2:00 becomes 3:00; due at once
    assert found(seen(env, now=jumped + HOUR - dt.timedelta(minutes=1), made=None)) == {}
    assert "backup-missing:production" in found(seen(env, now=jumped + HOUR, made=None))


def test_an_incomplete_backup_is_not_a_backup_for_the_rule_of_missing_ones():
    last = point(NOW.replace(hour=2) + DAY, complete=False, failed=("app",))
    env = production(backups=(*production().backups, last))
    told = found(seen(env, now=NOW + DAY))
    assert set(told) == {"backup-missing:production", "backup-incomplete:production"}
    assert "backup-incomplete:production" in told["backup-missing:production"].held_by


def test_a_part_taken_by_hand_is_no_incomplete_backup():
    by_hand = point(NOW - HOUR, complete=False)
    assert found(seen(production(backups=(*production().backups, by_hand)))) == {}


def test_an_environment_without_schedule_is_never_missing_or_overdue():
    env = EnvironmentSeen("development", None, backups=(point(NOW - 300 * DAY),))
    assert found(seen(env)) == {}


def test_a_new_vault_has_until_its_first_due_time():
    env = production(backups=(), proven=None, proof_time=None, recovery=None)
    made = NOW - HOUR
    assert found(seen(env, made=made)) == {}
    assert "there is none" in found(seen(env, made=made, now=NOW + DAY))["backup-missing:production"].text


@pytest.mark.parametrize("kind", ["StoreError", "StoreDenied", "StoreFull"])
def test_a_store_that_does_not_answer_is_said_and_nothing_is_said_of_backups(kind):
    down = seen(
        now=NOW + 3 * DAY, store=StoreSeen("s3://b", (kind, "the store does not answer", "")), vault_known=False
    )
    assert set(found(down)) == {"store-unreachable:store"}
    assert "backup-missing" in blind(down)
    assert "run-failed" not in blind(down)


def test_a_wrong_key_is_not_the_stores_fault():
    assert set(found(seen(store=StoreSeen("", ("KeyWrong", "wrong key", "mend")), vault_known=False))) == {
        "vault-unusable:vault"
    }


def run(**changes):
    usual = {"verb": "backup", "environment": "production", "started": NOW - HOUR, "ended": NOW, "outcome": "failed"}
    return RunSeen(**(usual | changes))


def test_a_failed_run_is_told_with_its_own_words_and_mend():
    failed = run(message="pg_dump ended with 1", hint="grant pg_read_all_data", kind="SourceError")
    (symptom,) = found(seen(runs=(failed,))).values()
    assert symptom.key == "run-failed:production/backup"
    assert "pg_dump ended with 1" in symptom.text
    assert symptom.hint == "grant pg_read_all_data"
    assert symptom.held_by == ()


def test_a_run_that_failed_for_the_store_is_a_part_of_the_stores_trouble():
    (symptom,) = found(seen(runs=(run(kind="StoreError", message="no answer"),))).values()
    assert symptom.held_by == ("store-unreachable:store",)


def test_a_run_whose_process_is_gone_is_a_failed_one():
    assert (
        "without a word"
        in found(seen(runs=(run(outcome="vanished", ended=None),)))["run-failed:production/backup"].text
    )


def test_a_run_may_take_three_times_the_usual_and_at_least_an_hour():
    running = run(outcome="running", ended=None, started=NOW - 2 * HOUR, usual=3600.0)
    assert found(seen(runs=(running,))) == {}
    long = dataclasses.replace(running, started=NOW - 4 * HOUR)
    assert "4 h" in found(seen(runs=(long,)))["run-long:production/backup"].text
    assert "run-long:production/backup" in found(seen(runs=(dataclasses.replace(running, usual=None),)))


def test_the_policys_longest_holds_for_finished_runs_too():
    done = run(outcome="done", started=NOW - 2 * HOUR)
    assert found(seen(runs=(done,))) == {}
    assert "took 2 h" in found(seen(production(longest=HOUR), runs=(done,)))["run-long:production/backup"].text


def test_data_at_risk_is_judged_where_the_policy_says_how_much():
    env = production(schedule="0 2 * * 1", rpo_max=DAY, backups=(point(NOW - 30 * HOUR),), proof_within=None)
    assert "data-at-risk:production" in found(seen(env))
    assert found(seen(dataclasses.replace(env, rpo_max=None))) == {}


def test_a_proof_slower_than_the_target_warns_and_than_the_maximum_fails():
    assert found(seen(production(recovery=5 * 3600)))["recovery-slow:production"].severity == "warning"
    assert found(seen(production(recovery=9 * 3600)))["recovery-slow:production"].severity == "failure"


def test_a_failed_proof_names_the_backup():
    env = production(failed_proof=("production/20261122T020000Z-7f3a", "leads: 3 rows differ"))
    assert "3 rows differ" in found(seen(env))["proof-failed:production"].text


def test_a_proof_is_overdue_after_its_time_and_where_there_never_was_one():
    old = production(proof_time=NOW - 36 * DAY)
    assert "36 days old" in found(seen(old))["proof-overdue:production"].text
    never = production(proven=None, proof_time=None, proof_within=10 * DAY)
    assert "none was ever proven" in found(seen(never))["proof-overdue:production"].text


@pytest.mark.parametrize(("size", "told"), [(50_000_000, False), (20_000_000, True), (0, True), (120_000_000, True)])
def test_a_source_far_from_its_usual_size_is_told_of(size, told):
    env = production(backups=(*production().backups[:-1], point(NOW.replace(hour=2), app=size)))
    assert ("size-unusual:production/app" in found(seen(env))) is told


def test_small_databases_may_halve():
    daily = [point(p.time, app=900_000) for p in production().backups[:-1]]
    assert found(seen(production(backups=(*daily, point(NOW.replace(hour=2), app=200_000))))) == {}


def test_a_slow_backup_is_told_of_only_where_it_is_slow_for_people():
    slow = production(backups=(*production().backups[:-1], point(NOW.replace(hour=2), seconds=1000.0)))
    assert "duration-unusual:production" in found(seen(slow))
    quick = production(backups=(*production().backups[:-1], point(NOW.replace(hour=2), seconds=300.0)))
    assert found(seen(quick)) == {}


@pytest.mark.parametrize(("used", "severity"), [(79, None), (80, "warning"), (96, "failure")])
def test_a_store_is_full_at_80_percent(used, severity):
    told = found(seen(store=StoreSeen("s3://b", None, used, 100, 80, 0.0))).get("store-full:store")
    assert (told.severity if told else None) == severity


def test_a_store_without_known_capacity_is_never_full():
    assert found(seen(store=StoreSeen("s3://b", None, 10**15, None))) == {}


def test_missing_entries_of_the_audit_log_are_a_failure():
    told = found(seen(store=StoreSeen("s3://b", None, 1, None, audit="entries 5 to 6 are missing")))[
        "audit-broken:vault"
    ]
    assert (told.severity, "5 to 6" in told.text) == ("failure", True)


def test_a_clock_five_minutes_off_is_told_of_and_holds_what_it_makes_appear_late():
    told = found(seen(now=NOW + 3 * DAY, store=StoreSeen("s3://b", None, None, None, 80, 3 * 86400.0)))
    assert "ahead of" in told["clock-off:clock"].text
    assert "clock-off:clock" in told["backup-missing:production"].held_by


def test_a_watch_that_stood_still_is_told_of_only_if_backups_were_missed():
    later = NOW + 7 * DAY
    away = (NOW, later)
    told = found(seen(now=later, away=away))
    assert "7 days" in told["watch-away:watch"].text
    assert "watch-away:watch" in told["backup-missing:production"].held_by
    caught_up = production(backups=(*production().backups, point(later - dt.timedelta(minutes=1))))
    assert found(seen(caught_up, now=later, away=away)) == {}


def test_a_copy_is_behind_when_it_lacks_an_old_backup():
    assert found(seen(copies=(CopySeen("elsewhere", NOW - 3 * DAY, 3),))) == {}
    assert "2 more" in found(seen(copies=(CopySeen("elsewhere", NOW - 9 * DAY, 3),)))["copy-behind:elsewhere"].text


def test_the_log_of_a_database_is_behind_or_has_a_gap():
    told = found(seen(wal=(WalSeen("production", "app", NOW - HOUR, "0/1 to 0/2 are missing"),)))
    assert set(told) == {"wal-behind:production/app", "wal-gap:production/app"}
    assert found(seen(wal=(WalSeen("production", "app", NOW),))) == {}


def test_the_providers_own_backups_are_told_of_when_they_stop_or_reach_less_far():
    good = ProviderSeen("production", "app", "neon", NOW - HOUR, 7 * DAY)
    assert found(seen(providers=(good,))) == {}
    for bad in ({"newest": NOW - 2 * DAY}, {"newest": None}, {"window": DAY}, {"error": "401"}):
        assert "provider-stopped:production/app" in found(seen(providers=(dataclasses.replace(good, **bad),)))


def test_drills_reviews_and_keys_are_overdue_from_when_the_vault_was_made():
    old = seen(production(drill_within=92 * DAY), made=NOW - 100 * DAY, keys=(KeySeen("8d", "safe", NOW - 400 * DAY),))
    assert set(found(old)) == {"drill-overdue:production", "review-overdue:strategy", "key-untested:8d"}
    done = seen(production(drill_within=92 * DAY, drilled=NOW), made=NOW - 100 * DAY, reviewed=NOW)
    assert found(done) == {}


def test_a_channel_that_fails_is_told_of():
    assert "channel-failed:slack" in found(seen(channels=(ChannelSeen("slack", NOW, 2, "404"),)))


def test_rules_can_be_turned_off_for_all_and_for_one_environment():
    late = NOW + 3 * DAY
    assert found(seen(now=late, off=frozenset({"backup-missing"}))) == {}
    assert found(seen(production(off=frozenset({"backup-missing"})), now=late)) == {}


def test_every_rule_tells_what_to_do_and_has_a_line_for_the_reference():
    assert all(rule.about.endswith(".") and "\n" not in rule.about for rule in RULES.values())
