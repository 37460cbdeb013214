"""What is due when, from the policy alone."""

import datetime as dt

import pytest

from keepwell.engine.calendar import Plan, begins, missed, occurrences, plans
from keepwell.engine.jobs import Job
from support import workplace


def at(text):
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def test_a_policy_that_says_only_when_to_back_up_also_gets_proofs_prune_and_checks(tmp_path):
    place = workplace.Workplace(tmp_path)
    place.write_policy(
        environment='schedule = "0 2 * * *"\ntimezone = "Europe/Berlin"',
        more='[environments.development.sources.app]\ntype = "sqlite"\npath = "dev.db"\n'
        f'[[copies]]\nname = "far"\nstore = "file://{tmp_path}/far"\nschedule = "0 6 * * 6"\n'
        f'[[copies]]\nname = "near"\nstore = "file://{tmp_path}/near"\nafter_backup = true\n',
    )
    assert [(p.kind, p.target, p.cron, p.timezone) for p in plans(place.loaded.policy)] == [
        ("backup", "production", "0 2 * * *", "Europe/Berlin"),
        ("prune", None, "0 3 * * 0", "UTC"),
        ("check", None, "0 4 * * 0", "UTC"),
        ("copy", "far", "0 6 * * 6", "UTC"),
        ("verify", "production", "0 5 * * 0", "Europe/Berlin"),
        ("drill", "production", "0 9 1 1,4,7,10 *", "Europe/Berlin"),
    ]


def test_identities_name_the_occurrence_in_utc():
    plan = Plan("backup", "production", "0 2 * * *", "Europe/Berlin")
    found = [job.ident for job in occurrences(plan, at("2026-10-23T12:00"), at("2026-10-26T12:00"))]
    # In the night of the 25th the clocks went back: 2:00 came twice, and the backup is due once.
    assert found == [
        "backup/production/20261024T000000Z",
        "backup/production/20261025T000000Z",
        "backup/production/20261026T010000Z",
    ]
    assert Job("prune", None, at("2026-10-25T03:00")).ident == "prune/20261025T030000Z"


@pytest.mark.parametrize("jitter", [0, 30])
def test_however_seldom_one_looks_each_occurrence_is_found_once_and_of_several_the_newest(jitter):
    plan = Plan("backup", "production", "0 * * * *", jitter=dt.timedelta(minutes=jitter))
    last, found = at("2026-11-22T00:30"), []
    for minutes in (1, 40, 5, 1, 60, 59, 300, 2, 29, 31):
        now = last + dt.timedelta(minutes=minutes)
        if job := missed(plan, last, now):
            assert last < begins(plan, job.due) <= now
            later = [other for other in occurrences(plan, job.due, now) if begins(plan, other.due) <= now]
            assert later == []
            found.append(job.ident)
        else:
            assert not [o for o in occurrences(plan, at("2026-11-21T00:00"), now) if last < begins(plan, o.due) <= now]
        last = now
    assert len(found) == len(set(found)) >= 5


def test_the_jitter_spreads_and_is_the_same_everywhere():
    due = at("2026-11-22T02:00")
    spread = [begins(Plan("backup", f"e{n}", "0 2 * * *", jitter=dt.timedelta(minutes=10)), due) for n in range(60)]
    assert all(due <= moment < due + dt.timedelta(minutes=10) for moment in spread)
    assert len({moment.minute for moment in spread}) == 10
    again = Plan("backup", "e0", "0 2 * * *", jitter=dt.timedelta(minutes=10))
    assert begins(again, due) == spread[0]
