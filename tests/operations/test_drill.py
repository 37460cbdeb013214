"""Drills: a recovery that was rehearsed, timed, held against the objectives, and kept."""

import dataclasses
import datetime as dt

import pytest

from keepwell.core.errors import BackupNotFound
from keepwell.operations import drill as module
from keepwell.operations.drill import DrillRequest, drill
from keepwell.vault.catalog import Proof

pytestmark = pytest.mark.slow


@pytest.fixture
def saved(place):
    place.backup()
    return place


def held(place, **request):
    return drill(place.loaded, DrillRequest("production", **request), place.context())


def test_a_drill_restores_everything_and_its_record_proves_the_backup(saved):
    result = held(saved)
    assert result.passed
    assert result.misses == []
    assert set(result.took) == {"open", "sandbox", "restore", "examine", "checks"}
    assert set(result.proof.sources) == {"app", "uploads"}
    assert result.recovery.total_seconds() <= result.proof.seconds["total"]
    assert any("is proven; the newest is taken" in text for text in result.warnings)
    assert saved.listed()[-1].proven
    vault = saved.vault()
    (proof,) = vault.proofs(vault.find("production@latest"))
    assert isinstance(proof, Proof)
    assert proof.details["drill"]["recovery_seconds"] == round(result.recovery.total_seconds(), 3)
    assert proof.details["drill"]["passed"] is True


def test_the_newest_proven_backup_is_taken_and_it_is_said_that_another_is_newer(saved):
    first = held(saved).proof.backup
    newest = saved.backup().backup
    result = held(saved)
    assert result.proof.backup == first != newest
    assert any(newest in text for text in result.warnings)
    assert held(saved, backup="latest").proof.backup == newest


def test_a_missed_maximum_fails_the_drill_and_a_missed_target_does_not(saved):
    result = held(saved)
    slow = dataclasses.replace(result, took={"restore": 5 * 3600.0})
    assert slow.passed
    assert slow.misses == ["the recovery took 5 h 0 min; rto is 4 h 0 min"]
    slower = dataclasses.replace(result, took={"restore": 9 * 3600.0})
    assert slower.failures == ["the recovery took 9 h 0 min; rto_max is 8 h 0 min"]
    stale = dataclasses.replace(result, at_risk=dt.timedelta(hours=30))
    assert stale.failures == ["the data at risk are 30 h 0 min; rpo_max is 24 h 0 min"]


def test_a_drill_uses_nothing_that_this_machine_has_at_hand(saved, monkeypatch):
    opened = []
    real = module.Vault.open

    def opening(store, credential, *, cache):
        opened.append(sorted(path.name for path in cache.iterdir()))
        return real(store, credential, cache=cache)

    monkeypatch.setattr(module.Vault, "open", opening)
    assert held(saved).passed
    assert opened == [[".keepwell-work"]]


def test_data_that_are_not_what_they_were_fail_the_drill(saved):
    pack = next(path for path in (saved.folder / "vault" / "packs").rglob("*") if path.is_file())
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(bytes(data))
    result = held(saved)
    assert not result.passed
    assert not saved.listed()[-1].proven


def test_there_must_be_something_to_rehearse_with(place):
    with pytest.raises(BackupNotFound, match="no complete backup"):
        drill(place.loaded, DrillRequest("production"), place.context())
