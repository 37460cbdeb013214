"""[watch], [notify] and [contacts]: defaults of the strategy, and mistakes told with line, key and mend."""

import datetime as dt

import pytest
from policy_texts import HEAD, SOURCE

WHOLE = (
    HEAD
    + SOURCE
    + """
[watch]
reviewed = 2026-11-01
capacity = "500 GB"
off = ["size-unusual"]
heartbeat = { env = "BEAT" }
[environments.p.watch]
longest = "2h"
[environments.p.sources.a]
type = "files"
path = "/srv/a"
[notify.slack]
url = { env = "SLACK" }
on = ["success", "failure"]
[notify.pager]
url = { env = "PAGER" }
environments = ["p"]
[contacts]
hotline = "+1"
primary = { name = "DevOps Lead", notify = ["slack"] }
escalation = { name = "CTO", notify = ["pager"], after = "1h" }
"""
)


def test_the_defaults_are_those_of_the_strategy(loaded):
    watch = loaded(HEAD + SOURCE).policy.watch
    assert watch.grace == dt.timedelta(hours=1)
    assert watch.full == 80
    assert watch.review_within == dt.timedelta(days=92)
    assert watch.drill_within == dt.timedelta(days=92 + 8)  # a quarter, and time to hold it


def test_everything_can_be_written(loaded):
    policy = loaded(WHOLE).policy
    assert policy.watch.capacity == 500 * 10**9
    assert policy.watch.reviewed == dt.date(2026, 11, 1)
    assert policy.notify["pager"].on == ("warning", "failure")
    assert [(wait, names) for wait, _, names in policy.contacts.steps()] == [
        (dt.timedelta(0), ("slack",)),
        (dt.timedelta(hours=1), ("pager",)),
    ]
    assert policy.environments["p"].watch.longest == dt.timedelta(hours=2)


@pytest.mark.parametrize(
    ("old", "new", "key", "mend"),
    [
        ('{ env = "SLACK" }', '"https://hooks.slack.com/services/T/B/x"', "notify.slack.url", "env"),
        ('on = ["success", "failure"]', "on = []", "notify.slack.on", "take the channel out"),
        ('on = ["success", "failure"]', 'on = ["disaster"]', "notify.slack.on[0]", ""),
        ('environments = ["p"]', 'environments = ["q"]', "notify.pager.environments[0]", "The policy has"),
        ('notify = ["slack"]', 'notify = ["slak"]', "contacts.primary.notify[0]", "Known are: slack, pager"),
        ('after = "1h"', 'after = "soon"', "contacts.escalation.after", "4h"),
        ('off = ["size-unusual"]', 'off = ["size-unusal"]', "watch.off[0]", ""),
        ('capacity = "500 GB"', 'capacity = "much"', "watch.capacity", "500 MB"),
        ("reviewed = 2026-11-01", 'reviewed = "lately"', "watch.reviewed", "2026-11-22"),
        ('capacity = "500 GB"', "full = 101", "watch.full", ""),
    ],
)
def test_mistakes_are_told_with_their_key_and_mend(refused, old, new, key, mend):
    assert old in WHOLE
    text = str(refused(WHOLE.replace(old, new)))
    assert f" {key}: " in text
    assert mend in text
    assert "hooks.slack.com/services/T" not in text


def test_who_is_told_later_cannot_come_before_who_is_told_first(refused):
    text = str(refused(WHOLE.replace('notify = ["slack"] }', 'notify = ["slack"], after = "3h" }')))
    assert "escalation would be told before primary" in text
