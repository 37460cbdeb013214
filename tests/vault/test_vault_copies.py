"""A second vault kept in step: what arrives restores by itself, whatever is interrupted, and heals the first."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vaultkit import HOUR, START, back_up, check, noise, open_vault, prune, restored, tick, troubles
from vaultkit import new_store as new_vault_store

from keepwell.core.clock import FakeClock
from keepwell.core.errors import Damaged, StoreError, UsageError
from keepwell.core.progress import Silent
from keepwell.core.streams import Finding
from keepwell.stores.faulty import Crash, FaultyStore
from keepwell.stores.memory import MemoryStore
from keepwell.vault import copying
from keepwell.vault.mirrors import Mirrors
from keepwell.vault.repair import repair


def empty() -> MemoryStore:
    return MemoryStore(FakeClock(START), name="far")


def bring(near, far, backups=None):
    vault = open_vault(near)
    copying.found(vault, far)
    return copying.copy(vault, open_vault(far), vault.backups() if backups is None else backups, Silent())


def three(store):
    vault = open_vault(store)
    shared = noise("shared", 150_000)
    return [back_up(vault, shared + noise(n, 90_000), at=START + n * HOUR) for n in range(3)], shared


def test_every_backup_restores_from_the_copy_alone():
    near, far = new_vault_store(), empty()
    backups, shared = three(near)
    report = bring(near, far)
    assert report.backups == [str(b.id) for b in backups]
    near.objects.clear()
    copy = open_vault(far)
    for number, backup in enumerate(backups):
        assert restored(copy, str(backup.id)) == shared + noise(number, 90_000)
    assert troubles(copy) == []


def test_a_second_run_brings_only_what_is_new():
    near, far = new_vault_store(), empty()
    three(near)
    bring(near, far)
    before = set(far.objects)
    again = bring(near, far)
    assert (again.backups, again.there, set(far.objects)) == ([], 3, before)
    back_up(open_vault(near), noise("shared", 150_000) + noise(0, 90_000), at=START + 9 * HOUR)
    assert len(bring(near, far).backups) == 1
    assert not {n for n in set(far.objects) - before if n.startswith("packs/")}, "everything in it was there"


def test_another_vault_is_never_written_into():
    near, far = new_vault_store(), empty()
    three(near)
    far.put("vault.json", open_vault(near).config.raw.replace(b'"created"', b'"Created"'))
    with pytest.raises((UsageError, Damaged)):
        bring(near, far)


@given(st.data())
def test_a_copy_that_dies_anywhere_is_finished_by_the_next(data):
    near, far = new_vault_store(), empty()
    backups, _ = three(near)
    calls = FaultyStore(empty())
    bring(near, calls)
    when = data.draw(st.integers(1, len(calls.calls)))
    fault = data.draw(st.sampled_from(["before", "after", "crash-before", "crash-after"]))
    with contextlib.suppress(StoreError, Crash):
        bring(near, FaultyStore(far, {when: fault}))
    for backup in open_vault(far).backups() if "vault.json" in far.objects else []:
        restored(open_vault(far), backup)  # whatever is committed is whole
    bring(near, far)
    assert [str(b.id) for b in open_vault(far).backups()] == [str(b.id) for b in backups]
    assert troubles(open_vault(far)) == []


def test_what_a_prune_moved_in_the_first_vault_is_found_for_the_copy():
    near, far = new_vault_store(), empty()
    backups, shared = three(near)
    prune(open_vault(near), backups[:1])
    tick(near, 48 * HOUR)
    prune(open_vault(near))
    bring(near, far)
    assert restored(open_vault(far), backups[2]) == shared + noise(2, 90_000)
    assert troubles(open_vault(far)) == []


def test_a_frame_that_is_damaged_or_lost_comes_from_the_copy_and_it_is_said():
    near, far = new_vault_store(), empty()
    backups, shared = three(near)
    bring(near, far)
    packs = [n for n in near.objects if n.startswith("packs/")]
    for number, name in enumerate(packs):
        content, when = near.objects[name]
        if number % 2:
            del near.objects[name]
        else:
            near.objects[name] = (content[:1500] + bytes(b ^ 1 for b in content[1500:]), when)
    vault, said = open_vault(near), []
    with pytest.raises(Damaged):
        restored(vault, backups[0])
    vault.stand_in(Mirrors(lambda: [open_vault(far)], said.append))
    for number, backup in enumerate(backups):
        assert restored(vault, backup) == shared + noise(number, 90_000)
    assert said
    assert all("memory://far" in text for text in said)


def test_a_lost_manifest_is_read_from_the_copy():
    near, far = new_vault_store(), empty()
    backups, shared = three(near)
    bring(near, far)
    vault, said = open_vault(near), []
    del near.objects[backups[1].manifest]
    vault.stand_in(Mirrors(lambda: [open_vault(far)], said.append))
    assert restored(vault, backups[1]) == shared + noise(1, 90_000)
    assert said


def test_the_copy_heals_every_object_that_is_flipped_cut_or_gone():
    near, far = new_vault_store(), empty()
    three(near)
    bring(near, far)
    names = [n for n in near.objects if n.partition("/")[0] not in ("probes", "index")]
    for number, name in enumerate(sorted(names)):
        content, when = near.objects[name]
        if number % 3 == 0:
            del near.objects[name]
        elif number % 3 == 1:
            near.objects[name] = (content[:-1], when)
        else:
            near.objects[name] = (content[:-2] + bytes([content[-2] ^ 4]) + content[-1:], when)
        if name != "vault.json":
            vault = open_vault(far) if name.startswith("keys/") else open_vault(near)
            vault.store = near
        report = repair(vault, [*check(vault).findings, Finding(name, "")], [open_vault(far)])
        if name != "vault.json":
            assert name in report.repaired, (name, report)
        near.objects.setdefault(name, (content, when))
    assert troubles(open_vault(near)) == []


def test_what_no_copy_has_whole_is_left_and_named():
    near, far = new_vault_store(), empty()
    three(near)
    bring(near, far)
    name = next(n for n in near.objects if n.startswith("packs/"))
    for store in (near, far):
        content, when = store.objects[name]
        store.objects[name] = (content[:-1], when)
    vault = open_vault(near)
    before = near.objects[name]
    report = repair(vault, check(vault).findings, [open_vault(far)])
    assert name in report.left
    assert near.objects[name] == before, "bad bytes are not deleted without good ones at hand"
