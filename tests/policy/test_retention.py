"""What goes and what stays, by examples and against a model that knows nothing of how it is computed."""

import datetime as dt
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwell.policy.models import Keep, KeepRule
from keepwell.policy.retention import Kept, decide

NOW = dt.datetime(2026, 11, 22, 2, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
FOREVER = KeepRule(age=dt.timedelta(days=36500))


def backup(age: float, tier: str = "daily", *, complete: bool = True, proven: bool = False, name: str = "") -> Kept:
    return Kept(name or f"production/{tier}-{age}", "production", tier, NOW - age * DAY, complete, proven)


def rules(**given: KeepRule) -> dict[str, Keep]:
    return {"production": Keep(**{"daily": FOREVER, "weekly": FOREVER, "monthly": FOREVER, "manual": FOREVER, **given})}


def days(number: float) -> KeepRule:
    return KeepRule(age=number * DAY)


def removed(backups, keep) -> list[float]:
    """The ages in days of what goes."""
    return sorted((NOW - b.time) / DAY for b in decide(backups, keep, NOW).removed)


def reason(backups, keep, which: Kept) -> str:
    return next(d.reason for d in decide(backups, keep, NOW).decisions if d.backup == which)


def test_by_age_what_is_older_goes_and_what_is_just_as_old_stays():
    backups = [backup(age) for age in (0, 6, 7, 8, 9)]
    assert removed(backups, rules(daily=days(7))) == [8, 9]
    assert reason(backups, rules(daily=days(7)), backups[2]) == "daily: not older than 7 days"
    assert reason(backups, rules(daily=days(7)), backups[3]) == "daily: older than 7 days"


def test_by_number_the_newest_stay():
    backups = [backup(age) for age in range(5)]
    assert removed(backups, rules(daily=KeepRule(count=3))) == [3, 4]
    assert reason(backups, rules(daily=KeepRule(count=3)), backups[2]) == "daily: 3rd of 3"
    assert reason(backups, rules(daily=KeepRule(count=3)), backups[3]) == "daily: 4th where 3 are kept"


def test_with_both_whichever_keeps_more_holds():
    backups = [backup(age) for age in (0, 1, 40, 50, 60)]
    both = KeepRule(age=30 * DAY, count=3)
    assert removed(backups, rules(daily=both)) == [50, 60]
    assert removed(backups, rules(daily=KeepRule(age=45 * DAY, count=1))) == [50, 60]
    assert reason(backups, rules(daily=both), backups[4]) == "daily: older than 30 days and 5th where 3 are kept"


def test_each_tier_has_its_own_rule():
    backups = [backup(age, tier) for age in (1, 20, 100) for tier in ("daily", "weekly", "monthly", "manual")]
    keep = rules(daily=days(7), weekly=days(30), monthly=days(365), manual=days(14))
    gone = {(b.tier, (NOW - b.time) / DAY) for b in decide(backups, keep, NOW).removed}
    assert gone == {("daily", 20), ("daily", 100), ("weekly", 100), ("manual", 20), ("manual", 100)}


def test_a_weekly_backup_stays_at_least_as_long_as_the_daily_one_that_it_took_the_place_of():
    backups = [backup(0), backup(3, "weekly"), backup(4), backup(6, "monthly"), backup(8, "weekly")]
    keep = rules(daily=days(7), weekly=days(1), monthly=days(1))
    assert removed(backups, keep) == [8]
    assert reason(backups, keep, backups[1]) == "weekly, stands for daily: not older than 7 days"
    counted = rules(daily=KeepRule(count=4), weekly=days(1), monthly=days(1))
    assert removed(backups, counted) == [8]
    assert reason(backups, counted, backups[3]) == "monthly, stands for daily: 4th of 4"


def test_higher_tiers_do_not_push_out_lower_ones():
    backups = [backup(0, "monthly"), backup(1, "weekly"), backup(2), backup(3), backup(4)]
    assert removed(backups, rules(daily=KeepRule(count=2))) == [4]


@pytest.mark.parametrize("tier", ["daily", "weekly", "monthly", "manual"])
def test_the_newest_proven_backup_is_never_removed(tier):
    proven = backup(400, tier, proven=True, name="production/proven")
    backups = [backup(1), backup(300, proven=True), backup(390), proven]
    keep = rules(**{t: days(30) for t in ("daily", "weekly", "monthly", "manual")})
    assert removed(backups, keep) == [390, 400]
    without = [b for b in backups if b == proven or not b.proven]
    assert removed(without, keep) == [390]
    assert (
        reason(without, keep, proven)
        == f"the newest proven backup of production (otherwise {tier}: older than 30 days)"
    )


def test_the_newest_complete_backup_is_never_removed():
    backups = [backup(1, complete=False), backup(100), backup(101)]
    assert removed(backups, rules(daily=days(30))) == [101]


def test_the_newest_backup_is_never_removed_even_where_none_was_ever_complete():
    backups = [backup(100, complete=False), backup(101, complete=False)]
    assert removed(backups, rules(daily=days(30))) == [101]
    assert reason(backups, rules(daily=days(30)), backups[0]).startswith("the newest backup of production")


def test_incomplete_backups_never_push_out_complete_ones():
    backups = [backup(age, complete=False) for age in (0, 1, 2)] + [backup(3), backup(4), backup(5)]
    assert removed(backups, rules(daily=KeepRule(count=2))) == [2, 5]


def test_incomplete_backups_make_room_for_complete_ones():
    backups = [backup(0), backup(1), backup(2, complete=False)]
    assert removed(backups, rules(daily=KeepRule(count=2))) == [2]


def test_environments_do_not_count_for_each_other():
    mine = [backup(age) for age in range(3)]
    theirs = [Kept(f"staging/{age}", "staging", "daily", NOW - age * DAY, True, True) for age in range(3)]
    keep = {**rules(daily=KeepRule(count=2)), "staging": Keep(daily=KeepRule(count=1))}
    assert {b.id for b in decide([*mine, *theirs], keep, NOW).removed} == {
        "production/daily-2",
        "staging/1",
        "staging/2",
    }


def test_an_environment_that_the_policy_does_not_know_keeps_everything():
    old = Kept("gone/1", "gone", "daily", NOW - 4000 * DAY, True, False)
    older = Kept("gone/2", "gone", "daily", NOW - 4001 * DAY, True, False)
    plan = decide([old, older], rules(daily=days(1)), NOW)
    assert plan.removed == ()
    assert "not in the policy" in plan.decisions[0].reason


def test_a_tier_without_a_rule_keeps_everything():
    backups = [backup(1), backup(400, "weekly"), backup(500, "weekly")]
    keep = {"production": Keep(daily=days(7))}
    assert removed(backups, keep) == []
    assert reason(backups, keep, backups[2]) == "weekly: there is no rule for this tier"


def test_a_backup_from_the_future_stays():
    assert removed([backup(-3), backup(-2), backup(0)], rules(daily=days(1))) == []


def test_reasons_count_in_english():
    backups = [backup(age) for age in range(25)]
    shown = {reason(backups, rules(daily=KeepRule(count=25)), b).removeprefix("daily: ") for b in backups}
    assert {
        "1st of 25",
        "2nd of 25",
        "3rd of 25",
        "11th of 25",
        "12th of 25",
        "13th of 25",
        "21st of 25",
        "22nd of 25",
    } <= shown


def test_decisions_come_newest_first():
    backups = [backup(age) for age in (3, 1, 2)]
    assert [d.backup for d in decide(backups, rules(), NOW).decisions] == [backups[1], backups[2], backups[0]]


# Properties

TIERS = ("daily", "weekly", "monthly", "manual")
rule_ages = st.integers(1, 40).map(lambda n: n * DAY)
rule_counts = st.integers(1, 6)
some_rules = st.one_of(
    st.builds(KeepRule, age=rule_ages),
    st.builds(KeepRule, count=rule_counts),
    st.builds(KeepRule, age=rule_ages, count=rule_counts),
)
keeps = st.dictionaries(
    st.sampled_from(["production", "staging"]), st.builds(Keep, **dict.fromkeys(TIERS, some_rules)), min_size=1
)


@st.composite
def backup_lists(draw):
    numbers = itertools.count()

    def make(environment, tier, hours, complete, proven):
        return Kept(f"{next(numbers):03}", environment, tier, NOW - hours * DAY / 8, complete, complete and proven)

    environments = st.sampled_from(["production", "staging", "gone"])
    each = st.builds(make, environments, st.sampled_from(TIERS), st.integers(-4, 400), st.booleans(), st.booleans())
    return draw(st.lists(each, max_size=40))


def newer(one: Kept, other: Kept) -> bool:
    return (one.time, one.id) > (other.time, other.id)


def naively_kept(b: Kept, backups: list[Kept], keep: Keep | None) -> bool:
    """The five rules of `decide`, each by looking at everything."""
    mine = [o for o in backups if o.environment == b.environment]
    if keep is None:
        return True
    for fits in (lambda o: True, lambda o: o.complete, lambda o: o.proven):
        if fits(b) and not any(fits(o) and newer(o, b) for o in mine):
            return True
    ladder = ["daily", "weekly", "monthly"]
    ways = [(b.tier, {b.tier})]
    if b.tier in ladder:
        ways += [(ladder[i], set(ladder[i:])) for i in range(ladder.index(b.tier))]
    for tier, group in ways:
        rule = getattr(keep, tier)
        if rule.age is not None and NOW - b.time <= rule.age:
            return True
        before = [o for o in mine if o.tier in group and newer(o, b)]
        full = sum(o.complete for o in before)
        ahead = full if b.complete else max(full, len(before) - full)
        if rule.count is not None and ahead < rule.count:
            return True
    return False


@given(backup_lists(), keeps)
def test_what_stays_is_what_the_naive_model_keeps(backups, keep):
    expected = {b.id for b in backups if naively_kept(b, backups, keep.get(b.environment))}
    assert {b.id for b in decide(backups, keep, NOW).kept} == expected


@given(backup_lists(), keeps)
def test_the_newest_proven_and_the_newest_complete_backup_always_stay(backups, keep):
    kept = set(decide(backups, keep, NOW).kept)
    for environment in {b.environment for b in backups}:
        for fits in (lambda b: b.proven, lambda b: b.complete, lambda b: True):
            these = [b for b in backups if b.environment == environment and fits(b)]
            if these:
                assert max(these, key=lambda b: (b.time, b.id)) in kept


@given(backup_lists(), keeps, st.randoms())
def test_the_order_in_which_backups_are_listed_does_not_matter(backups, keep, random):
    shuffled = backups.copy()
    random.shuffle(shuffled)
    assert decide(shuffled, keep, NOW) == decide(backups, keep, NOW)


@given(backup_lists(), keeps)
def test_every_backup_gets_one_decision_with_a_reason(backups, keep):
    plan = decide(backups, keep, NOW)
    assert sorted(d.backup.id for d in plan.decisions) == sorted(b.id for b in backups)
    assert all(d.reason for d in plan.decisions)
    assert set(plan.kept) | set(plan.removed) == set(backups)


@given(backup_lists(), keeps)
def test_pruning_again_at_the_same_moment_removes_nothing_more(backups, keep):
    kept = decide(backups, keep, NOW).kept
    assert decide(kept, keep, NOW).removed == ()


@given(backup_lists(), keeps, st.sampled_from(TIERS), st.integers(0, 30), st.integers(0, 5))
def test_a_longer_rule_never_keeps_less(backups, keep, tier, more_days, more):
    longer = {
        name: rules_.model_copy(
            update={
                tier: KeepRule(
                    age=rules_.rule(tier).age and rules_.rule(tier).age + more_days * DAY,
                    count=rules_.rule(tier).count and rules_.rule(tier).count + more,
                )
            }
        )
        for name, rules_ in keep.items()
    }
    assert set(decide(backups, keep, NOW).kept) <= set(decide(backups, longer, NOW).kept)


@given(backup_lists(), keeps, backup_lists())
def test_another_incomplete_backup_removes_no_complete_one(backups, keep, others):
    """Unless it is the newest of all, which it only makes safer."""
    more = [Kept(f"x{b.id}", b.environment, b.tier, b.time, False, False) for b in others]
    complete = {b for b in decide(backups, keep, NOW).kept if b.complete}
    assert complete <= set(decide([*backups, *more], keep, NOW).kept)
