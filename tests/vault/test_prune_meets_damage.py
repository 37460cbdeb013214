"""A prune that meets what it cannot read deletes nothing that depends on it, and says what to do; records of checks go."""

from __future__ import annotations

import datetime as dt

import pytest
from vaultkit import HOUR, NOW, START, back_up, check, new_store, noise, open_vault, packs, prune, restored, tick

from keepwell.core.errors import Damaged
from keepwell.stores.memory import MemoryStore
from keepwell.vault import checklog


def flip(store: MemoryStore, name: str, at: int) -> None:
    raw, when = store.objects[name]
    store.objects[name] = (raw[:at] + bytes([raw[at] ^ 1]) + raw[at:][1:], when)


def test_a_damaged_pack_that_nothing_knows_stops_the_prune_with_a_way_on():
    """It was left by a backup that died: garbage, but nobody can tell."""
    store = new_store()
    kept = back_up(open_vault(store), noise("kept", 30_000))
    indexes = {n for n in store.objects if n.startswith("index/")}
    before = packs(store)
    lost = back_up(open_vault(store), noise("lost", 30_000), at=START + HOUR)
    for name in [
        n for n in store.objects if n.startswith(lost.folder) or (n.startswith("index/") and n not in indexes)
    ]:
        del store.objects[name]
    (pack,) = packs(store) - before
    flip(store, pack, len(store.objects[pack][0]) - 20)
    tick(store)
    there = set(store.objects)
    with pytest.raises(Damaged, match=pack) as caught:
        prune(open_vault(store), [kept])
    assert pack in caught.value.hint
    assert "keepwell check" in caught.value.hint
    assert set(store.objects) == there
    report = check(open_vault(store))
    assert (pack in {f.what for f in report.findings}, report.affected) == (True, [])
    del store.objects[pack]  # as the hint says
    prune(open_vault(store))
    assert check(open_vault(store)).findings == []
    assert restored(open_vault(store), kept) == noise("kept", 30_000)


def test_a_damaged_manifest_of_a_backup_on_its_way_out_stops_the_prune_with_a_way_on():
    store = new_store()
    kept = back_up(open_vault(store), noise("kept", 30_000))
    gone = back_up(open_vault(store), noise("gone", 30_000), at=START + HOUR)
    prune(open_vault(store), [gone], grace=HOUR)
    flip(store, gone.manifest, 20)
    there = set(store.objects)
    with pytest.raises(Damaged, match=gone.manifest) as caught:
        prune(open_vault(store), grace=HOUR)
    assert gone.folder in caught.value.hint
    assert set(store.objects) == there
    for name in [n for n in store.objects if n.startswith(gone.folder)]:  # as the hint says
        del store.objects[name]
    tick(store, 2 * HOUR)
    prune(open_vault(store), grace=HOUR)
    assert check(open_vault(store)).findings == []
    assert restored(open_vault(store), kept) == noise("kept", 30_000)


def test_a_damaged_pack_of_which_a_part_is_needed_is_not_moved_about():
    store = new_store()
    vault = open_vault(store)
    small = {"a": noise("a", 20_000)}
    old = back_up(vault, {"app": small | {"b": noise("b", 800_000)}})
    new = back_up(vault, {"app": small}, at=START + HOUR)
    (shared,) = {pack for _, pack in vault.read(new).manifest.packs}
    name = f"packs/{shared[:2]}/{shared}"
    flip(store, name, 200)
    tick(store)
    with pytest.raises(Damaged, match=shared) as caught:
        prune(open_vault(store), [old], grace=NOW)
    assert name in caught.value.hint
    assert name in store.objects


def test_a_damaged_index_says_that_it_can_be_made_anew_and_is():
    store = new_store()
    backup = back_up(open_vault(store), noise("x", 30_000))
    (index,) = [n for n in store.objects if n.startswith("index/")]
    flip(store, index, 60)
    tick(store)
    for wish in (lambda: prune(open_vault(store)), lambda: back_up(open_vault(store), b"more", at=START + HOUR)):
        with pytest.raises(Damaged, match=index) as caught:
            wish()
        assert index in caught.value.hint
    del store.objects[index]  # as the hint says
    prune(open_vault(store))
    assert check(open_vault(store)).findings == []
    assert restored(open_vault(store), backup) == noise("x", 30_000)


def test_a_damaged_mark_says_what_becomes_of_what_it_condemned():
    store = new_store()
    backup = back_up(open_vault(store), noise("x", 30_000))
    prune(open_vault(store), [backup], grace=HOUR)
    (mark,) = [n for n in store.objects if n.startswith("trash/")]
    flip(store, mark, 60)
    with pytest.raises(Damaged, match=mark) as caught:
        open_vault(store).backups()
    assert mark in caught.value.hint
    del store.objects[mark]  # as the hint says
    assert restored(open_vault(store), "production") == noise("x", 30_000)


# Records of checks


def records(store: MemoryStore) -> list[str]:
    return sorted(name for name in store.objects if name.startswith("logs/checks/"))


def run_checks(store: MemoryStore, of: int, runs: int, first: int = 0) -> list[str]:
    return [
        check(open_vault(store), data=False, share=of, now=START + (first + n) * dt.timedelta(minutes=1)).share
        for n in range(runs)
    ]


@pytest.mark.parametrize("runs", [1, 3, 5, 7, 11])
def test_records_of_checks_go_and_the_rounds_go_on_as_if_they_were_there(runs):
    store, twin = new_store(), new_store()
    for one in (store, twin):
        back_up(open_vault(one), noise("x", 30_000))
        run_checks(one, 3, runs)
        run_checks(one, 2, 5, first=50)
    prune(open_vault(store))
    assert len(records(store)) == min(runs, 6) + 4
    assert run_checks(store, 3, 7, first=100) == run_checks(twin, 3, 7, first=100)
    assert run_checks(store, 2, 3, first=200) == run_checks(twin, 2, 3, first=200)


def test_a_dry_run_leaves_the_records_and_a_damaged_record_is_told_and_not_deleted():
    from keepwell.core.progress import Silent
    from keepwell.vault import prune as pruning

    store = new_store()
    back_up(open_vault(store), noise("x", 30_000))
    run_checks(store, 2, 9)
    pruning.prune(open_vault(store), [], grace=HOUR, progress=Silent(), dry_run=True)
    assert len(records(store)) == 9
    flip(store, records(store)[0], 30)
    prune(open_vault(store), grace=HOUR)
    assert len(records(store)) == 5
    (finding,) = check(open_vault(store), data=False, share=2, now=START + 9 * HOUR).findings
    assert (finding.what, "may be deleted" in finding.problem) == (records(store)[0], True)
    assert checklog.outdated(open_vault(store)) != []
