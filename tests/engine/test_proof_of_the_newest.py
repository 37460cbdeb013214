"""The scheduled proof, after a backup in which a source failed."""

import datetime as dt

import pytest

from keepwell.engine.execute import run
from keepwell.engine.jobs import Job

pytestmark = pytest.mark.slow


def test_a_backup_that_lacks_a_source_is_passed_over_for_the_newest_that_is_complete(place):
    whole = place.backup().backup
    place.database.rename(place.folder / "gone")
    assert not place.backup().clean
    outcome = run(
        Job("verify", "production", dt.datetime(2026, 11, 22, 5, tzinfo=dt.UTC)), place.loaded, place.context()
    )
    assert (outcome.result, outcome.backup) == ("done", whole)
