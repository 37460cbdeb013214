"""Jitter is a promise: who watches waits for it, and no run overtakes the next."""

import datetime as dt

import pytest

from keepwell.core.errors import PolicyError
from keepwell.watch.gather import bare_environment
from keepwell.watch.seen import Point
from keepwell.watch.signs import missing_since
from support import workplace

DUE = dt.datetime(2026, 11, 22, 2, tzinfo=dt.UTC)


class NoPages:
    def note(self, name):
        return None


@pytest.fixture
def place(tmp_path):
    return workplace.Workplace(tmp_path)


def test_a_backup_is_missing_only_when_its_jitter_and_then_the_grace_time_are_over(place):
    place.write_policy(environment='schedule = "0 2 * * *"\njitter = "3h"')
    policy = place.loaded.policy.environments["production"]
    env = bare_environment(place.loaded, "production", policy, NoPages())
    env = type(env)(**vars(env) | {"backups": (Point("x", DUE - dt.timedelta(hours=22), complete=True),)})
    assert missing_since(env, None, DUE + dt.timedelta(hours=3, minutes=59)) is None
    assert missing_since(env, None, DUE + dt.timedelta(hours=4)) == DUE


@pytest.mark.parametrize(
    ("schedule", "jitter"), [("*/15 * * * *", "15m"), ("0 2 28,1 * *", "1d"), ("0 2 * * 0,1", "24h")]
)
def test_a_jitter_as_long_as_the_time_between_two_backups_is_a_mistake(place, schedule, jitter):
    place.write_policy(environment=f'schedule = "{schedule}"\njitter = "{jitter}"')
    with pytest.raises(PolicyError, match=r"environments\.production\.jitter: a backup could begin after the next one"):
        assert place.loaded
    place.write_policy(environment=f'schedule = "{schedule}"\njitter = "14m"')
    assert place.loaded
