"""Copies as a user has them: brought up to date, turned to when the vault fails, and what the first is mended from."""

import shutil

import pytest

from keepwell.core.errors import StoreError, UsageError
from keepwell.operations.check import CheckRequest, check
from keepwell.operations.copy import CopyRequest, copy
from keepwell.operations.listing import list_backups
from keepwell.operations.restore import RestoreRequest, restore
from support import workplace

TWO = """
[[copies]]
name = "offsite"
store = "file://{folder}/offsite"

[[copies]]
name = "archive"
store = "file://{folder}/archive"
keep = {{ daily = 1, manual = 1 }}
"""


@pytest.fixture
def place(tmp_path):
    return workplace.make(tmp_path / "work", more=TWO.format(folder=tmp_path))


def bring(place, *names):
    return copy(place.loaded, CopyRequest(names), place.context())


def test_every_copy_gets_what_its_own_rules_keep(place):
    for _ in range(3):
        place.backup()
        place.clock.advance(days=1)
    result = bring(place)
    assert result.clean
    assert [len(result.copies[name].report.backups) for name in ("offsite", "archive")] == [3, 1]
    again = bring(place)
    assert [outcome.report.backups for outcome in again.copies.values()] == [[], []]


def test_a_restore_uses_the_copy_where_the_store_is_gone_and_says_so(place, tmp_path):
    place.backup()
    bring(place)
    shutil.rmtree(tmp_path / "work" / "vault")
    context = place.context()
    restore(place.loaded, RestoreRequest("production@latest", "app", str(tmp_path / "back.db")), context)
    assert place.sql("SELECT count(*) FROM leads", tmp_path / "back.db") == [(400,)]
    assert any("offsite" in text for text in context.progress.warnings)
    assert len(list_backups(place.loaded)) == 1


def test_a_damaged_pack_is_read_from_the_copy_and_repaired_from_it(place, tmp_path):
    place.backup()
    bring(place)
    (pack, *_) = (tmp_path / "work" / "vault" / "packs").glob("*/*")
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(content)
    context = place.context()
    restore(place.loaded, RestoreRequest("production@latest", to=str(tmp_path / "back")), context)
    assert any("came from the copy" in text for text in context.progress.warnings)
    damaged = check(place.loaded, CheckRequest(data=True), place.context())
    assert not damaged.passed
    mended = check(place.loaded, CheckRequest(data=True, repair=True), place.context())
    assert mended.passed
    assert list(mended.repair.repaired) == [f"packs/{pack.parent.name}/{pack.name}"]


def test_one_copy_that_is_out_of_reach_does_not_hold_up_the_other(place, tmp_path):
    place.backup()
    (tmp_path / "offsite").write_text("a file in the way")
    result = bring(place)
    assert not result.clean
    assert result.copies["offsite"].error
    assert len(result.copies["archive"].report.backups) == 1
    with pytest.raises(StoreError):
        bring(place, "offsite")


def test_an_unknown_copy_and_a_policy_without_copies_are_told(place, tmp_path):
    with pytest.raises(UsageError, match="offsit"):
        bring(place, "offsit")
    alone = workplace.make(tmp_path / "alone")
    with pytest.raises(UsageError, match="no copies"):
        bring(alone)
    with pytest.raises(UsageError, match="no copies"):
        check(alone.loaded, CheckRequest(repair=True), alone.context())
