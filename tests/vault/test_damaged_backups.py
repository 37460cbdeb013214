"""One altered metadata.json or proof costs the backup that it belongs to, and nothing is passed over in silence."""

from __future__ import annotations

import datetime as dt

import pytest
from vaultkit import HOUR, START, back_up, check, new_store, noise, open_vault, packs, prune, restore, restored, tick

from keepwell.core.errors import BackupNotFound, Damaged
from keepwell.core.progress import Silent
from keepwell.vault import prune as pruning
from keepwell.vault.catalog import Proof

SPOILT = {
    "flipped": lambda raw: raw[:60] + bytes([raw[60] ^ 1]) + raw[61:],
    "cut short": lambda raw: raw[: len(raw) // 2],
    "emptied": lambda raw: b"",
    "another mac": lambda raw: raw.replace(b'"mac": "', b'"mac": "0', 1).replace(b'",\n  "', b'",\n "', 1),
}


def spoil(store, name, how="flipped"):
    raw, when = store.objects[name]
    store.objects[name] = SPOILT[how](raw), when


def three(store):
    vault = open_vault(store)
    return [back_up(vault, noise(n, 20_000), at=START + n * HOUR) for n in range(3)]


def prove(store, backup, *, after, passed=True):
    proof = Proof(str(backup.id), backup.checksum, START + after, "round-trip", passed, "fine" if passed else "wrong")
    return open_vault(store).record(backup, proof)


class Noting(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.parametrize("how", SPOILT)
def test_damaged_metadata_costs_that_backup_only(how):
    store = new_store()
    one, two, three_ = three(store)
    spoil(store, two.metadata, how)
    catalogue = open_vault(store).scan()
    assert [b.id for b in catalogue.backups] == [one.id, three_.id]
    (bad,) = catalogue.damaged
    assert (bad.id, bad.tier, bad.folder) == (two.id, "daily", two.folder)
    assert "altered" in bad.message
    assert restored(open_vault(store), str(one.id)) == noise(0, 20_000)
    assert restored(open_vault(store), "production@latest") == noise(2, 20_000)
    assert [f.what for f in check(open_vault(store)).findings] == [two.metadata]


def test_a_new_backup_goes_on_beside_a_damaged_one_and_says_what_it_saw_last():
    store = new_store()
    *_, newest = three(store)
    spoil(store, newest.metadata)
    new = back_up(open_vault(store), noise(9, 20_000), at=START + 9 * HOUR)
    assert new.document["previous"] == str(newest.id)
    assert restored(open_vault(store), "production@latest") == noise(9, 20_000)


def test_latest_is_never_silently_an_older_backup():
    store = new_store()
    one, two, newest = three(store)
    spoil(store, newest.metadata)
    for name in ("production", "production@latest", f"production@{START:%Y-%m-%d}"):
        with pytest.raises(Damaged, match=str(newest.id)) as caught:
            open_vault(store).find(name)
        assert str(two.id) in caught.value.hint
        assert str(one.id) not in caught.value.hint
    assert open_vault(store).find(str(two.id)).id == two.id
    with pytest.raises(Damaged, match=str(newest.id)):
        open_vault(store).find(str(newest.id))
    with pytest.raises(BackupNotFound):
        open_vault(store).find(f"production@{START + dt.timedelta(days=1):%Y-%m-%d}")


def test_an_environment_whose_only_backup_is_damaged_is_not_called_empty():
    store = new_store()
    only = back_up(open_vault(store), noise(0, 9_000))
    spoil(store, only.metadata)
    for name in ("production", "production@proven", f"production@{START:%Y-%m-%d}"):
        with pytest.raises(Damaged, match=str(only.id)):
            open_vault(store).find(name)


def test_proven_is_never_silently_an_older_backup():
    store = new_store()
    _, two, newest = three(store)
    prove(store, two, after=3 * HOUR)
    assert open_vault(store).find("production@proven").id == two.id
    prove(store, newest, after=4 * HOUR)
    spoil(store, newest.metadata)
    with pytest.raises(Damaged, match=str(newest.id)) as caught:
        open_vault(store).find("production@proven")
    assert str(two.id) in caught.value.hint


def test_a_damaged_backup_older_than_the_one_that_is_meant_is_no_hindrance():
    store = new_store()
    one, two, newest = three(store)
    prove(store, newest, after=4 * HOUR)
    spoil(store, one.metadata)
    spoil(store, two.metadata)
    assert open_vault(store).find("production@latest").id == newest.id
    assert open_vault(store).find("production@proven").id == newest.id


@pytest.mark.parametrize("how", SPOILT)
def test_a_damaged_proof_proves_nothing_and_leaves_the_backup(how):
    store = new_store()
    *_, two, newest = three(store)
    prove(store, two, after=3 * HOUR)
    spoil(store, prove(store, newest, after=4 * HOUR), how)
    found = {b.id: b for b in open_vault(store).backups()}
    assert (found[two.id].proven, found[newest.id].proven) == (True, False)
    (proof,) = open_vault(store).proofs(found[newest.id])
    assert (proof.unreadable, proof.passed, proof.counts) == (True, False, False)
    assert proof.time == START + 4 * HOUR
    assert restored(open_vault(store), found[newest.id]) == noise(2, 20_000)
    with pytest.raises(Damaged, match=str(newest.id)) as caught:
        open_vault(store).find("production@proven")
    assert str(two.id) in caught.value.hint


def test_a_failed_proof_that_cannot_be_read_does_not_prove_the_backup():
    store = new_store()
    *_, newest = three(store)
    prove(store, newest, after=3 * HOUR)
    failed = prove(store, newest, after=4 * HOUR, passed=False)
    assert not open_vault(store).backups()[-1].proven
    spoil(store, failed)
    assert not open_vault(store).backups()[-1].proven
    prove(store, newest, after=5 * HOUR)
    assert open_vault(store).backups()[-1].proven
    assert open_vault(store).find("production@proven").id == newest.id


def test_a_prune_keeps_a_damaged_backup_and_every_pack_that_it_may_need():
    store = new_store()
    one, two, newest = three(store)
    whole = store.objects[two.metadata]
    spoil(store, two.metadata)
    before = packs(store)
    tick(store)
    progress = Noting()
    pruning.prune(open_vault(store), [one], grace=dt.timedelta(0), progress=progress)
    assert str(two.id) in " ".join(progress.warnings)
    assert len(packs(store)) == len(before) - 1
    store.objects[two.metadata] = whole  # put back from a copy of the vault
    assert restored(open_vault(store), two) == noise(1, 20_000)
    assert restored(open_vault(store), newest) == noise(2, 20_000)


def test_a_prune_does_not_remove_what_an_unreadable_proof_may_protect():
    store = new_store()
    one, _, _ = three(store)
    name = prove(store, one, after=4 * HOUR)
    spoil(store, name)
    tick(store)
    progress = Noting()
    removed = open_vault(store).backups()[0]
    report = pruning.prune(open_vault(store), [removed], grace=dt.timedelta(0), progress=progress)
    assert (report.withheld, report.marked) == ([str(one.id)], [])
    assert name in " ".join(progress.warnings)
    assert restored(open_vault(store), one) == noise(0, 20_000)
    prove(store, one, after=5 * HOUR, passed=False)  # now it is known, and nothing is in doubt
    report = pruning.prune(open_vault(store), open_vault(store).backups()[:1], grace=dt.timedelta(0), progress=progress)
    assert (report.withheld, report.marked) == ([], [str(one.id)])


def test_a_condemned_backup_whose_metadata_is_damaged_is_swept_and_not_listed():
    store = new_store()
    one, two, newest = three(store)
    prune(open_vault(store), [one], grace=HOUR)
    spoil(store, one.metadata)
    assert open_vault(store).scan().damaged == []
    tick(store, 2 * HOUR)
    prune(open_vault(store), grace=HOUR)
    assert not [name for name in store.objects if name.startswith(one.folder)]
    assert [b.id for b in open_vault(store).backups()] == [two.id, newest.id]
    assert restore(open_vault(store), two) == {"app": {"dump": noise(1, 20_000)}}
