"""A vault written by an earlier version is read, checked, restored, added to and pruned by this one, for ever."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fixtures_make import FOLDER, PASSPHRASE, expected
from vaultkit import START, back_up, check, open_vault, prune, restore, restored

from keepwell.core.errors import KeyCannotRead
from keepwell.core.secrets import Secret
from keepwell.keys import slots
from keepwell.stores.local import LocalStore


@pytest.fixture
def folder(tmp_path) -> Path:
    shutil.copytree(FOLDER, tmp_path / "format-1")
    return tmp_path / "format-1"


@pytest.mark.parametrize("credential", ["key file", "passphrase"])
def test_a_vault_of_format_1_restores_bit_for_bit(folder, credential):
    key = (
        slots.read_key_file(folder / "reader.key") if credential == "key file" else slots.Passphrase(Secret(PASSPHRASE))
    )
    vault = open_vault(LocalStore(folder / "vault"), key=key)
    backups = vault.backups()
    assert [b.tier for b in backups] == list(expected())
    assert {b.tier: restore(vault, b) for b in backups} == expected()
    assert [b.status for b in backups] == ["complete", "complete", "incomplete"]
    assert vault.read(backups[2]).sources["broken"] == {"status": "failed", "error": "was not there", "facts": {}}
    assert [p.details for p in vault.proofs(backups[0])] == [{"tables": {"leads": 3000}}]
    # A frame of it was moved by a prune, so that reading by birth id and number is pinned, too.
    there = {info.name.rsplit("/", 1)[-1] for info in vault.store.list("packs/")}
    assert {pack for _, pack in vault.read(backups[0]).manifest.packs} - there
    report = check(vault)
    assert (report.findings, report.notes, report.depth, report.backups) == ([], [], "bytes", 3)


def test_a_vault_of_format_1_takes_backups_and_is_pruned(folder):
    """A writer's key shares what is there; a prune moves and deletes; the rest is as it was."""
    store = LocalStore(folder / "vault")
    writer = open_vault(store, key=slots.read_key_file(folder / "writer.key"))
    first = writer.backups()[0]
    with pytest.raises(KeyCannotRead):
        writer.read(first)
    text = expected()["daily"]["app"]["data"]
    new = back_up(writer, text, at=START.replace(year=2027))
    assert new.document["bytes"]["new"] == 0
    prune(writer, writer.backups()[:2])
    vault = open_vault(store, key=slots.read_key_file(folder / "reader.key"))
    manual, latest = vault.backups()
    assert restore(vault, manual) == expected()["manual"]
    assert restored(vault, latest) == text
    assert check(vault).findings == []
