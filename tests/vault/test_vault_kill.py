"""`kill -9` at hundreds of random moments of real backups and prunes on a local store."""

from __future__ import annotations

import datetime as dt
import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from vaultkit import NOW, START, open_vault, prune, restore, troubles

from keepwell.keys import slots
from keepwell.stores.local import LocalStore
from keepwell.vault.vault import Vault

DRIVER = Path(__file__).with_name("kill_driver.py")
KILLS = 200
PER_PROCESS_START = 4
"""Kills whose victims start side by side: starting Python takes longer than what is to be interrupted."""


class Reported:
    """What the drivers said: what must be there, and what may be there or not."""

    def __init__(self) -> None:
        self.committed: dict[str, str] = {}
        self.removing: set[str] = set()

    def read(self, output: str) -> None:
        for line in output.splitlines(keepends=True):
            if not line.endswith("\n"):
                continue  # killed while writing it
            verb, *words = line.split()
            if verb == "committed":
                self.committed[words[0]] = words[1]
            elif verb == "removing":
                self.removing.add(words[0])


def digest(data: dict[str, dict[str, bytes]]) -> str:
    return hashlib.sha256(data["app"]["a"] + data["app"]["b"]).hexdigest()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2))
def test_what_was_reported_survives_any_kill(tmp_path, seed):
    """Two processes at a time work in one vault and are killed; each time everything is read back."""
    store = LocalStore(tmp_path / "vault", create=True)
    Vault.create(store, now=START, key_file=tmp_path / "key", cache=tmp_path / "cache")
    key = slots.read_key_file(tmp_path / "key")
    chance, reported, kills = random.Random(seed), Reported(), 0
    rounds = 0
    while kills < KILLS // 2:
        victims = [start(tmp_path, f"{seed} {rounds} {n}") for n in range(PER_PROCESS_START)]
        try:
            for victim in victims:
                assert victim.stdout is not None
                assert victim.stdout.readline() == "ready\n"
            chance.shuffle(victims)
            for victim in victims:
                time.sleep(chance.random() * 0.15)  # the moment of the kill, not a synchronisation
                victim.kill()
        finally:
            for victim in victims:
                victim.kill()
        for victim in victims:
            assert victim.stdout is not None
            assert victim.wait() == -9, (tmp_path / "errors").read_text()
            reported.read(victim.stdout.read())
            victim.stdout.close()
            kills += 1
        rounds += 1
        verify(store, key, reported, thorough=rounds % 5 == 0)
    vault = open_vault(store, key=key)
    prune(vault, vault.backups()[:-1])
    prune(vault)
    assert len(vault.backups()) == 1
    assert troubles(open_vault(store, key=key)) == []
    assert len(reported.committed) > 30
    store.close()


def start(folder: Path, seed: str) -> subprocess.Popen[str]:
    with (folder / "errors").open("a") as errors:
        return subprocess.Popen(
            [sys.executable, str(DRIVER), str(folder / "vault"), str(folder / "key"), seed],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )


def verify(store: LocalStore, key: slots.KeyFile, reported: Reported, *, thorough: bool) -> None:
    vault = open_vault(store, key=key)
    there = {str(b.id): b for b in vault.backups()}
    missing = set(reported.committed) - set(there) - reported.removing
    assert not missing, f"committed, and gone: {missing}"
    for ident, backup in there.items():
        data = restore(vault, backup)
        if ident in reported.committed:
            assert digest(data) == reported.committed[ident]
    assert troubles(vault) == []
    if thorough:
        again = open_vault(store, key=key)
        with again.begin(environment="production", tier="manual", now=dt.datetime.now(dt.UTC)) as session:
            sink = session.sink("app")
            for name, content in (("a", b"after"), ("b", b"the kill")):
                stream = sink.stream(name)
                stream.write(content)
                stream.close()
            session.done("app", {})
            backup = session.commit(database="app", host="test", seconds=0)
        prune(again, [b for b in again.backups() if str(b.id) in reported.removing], grace=NOW)
        assert digest(restore(open_vault(store, key=key), backup)) == hashlib.sha256(b"afterthe kill").hexdigest()
        left = {str(b.id) for b in open_vault(store, key=key).backups()}
        assert set(reported.committed) - reported.removing <= left
        reported.committed[str(backup.id)] = hashlib.sha256(b"afterthe kill").hexdigest()
