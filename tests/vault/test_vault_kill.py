"""`kill -9` at hundreds of random moments of real backups and prunes on a local store."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import random
import signal
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
SIDE_BY_SIDE = 5
"""Victims that work in the vault at the same time."""


class Driver:
    """The process that forks the victims, and what these said: what must be there, and what may be there or not."""

    def __init__(self, folder: Path) -> None:
        self.committed: dict[str, str] = {}
        self.removing: set[str] = set()
        self.errors = folder / "errors"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(DRIVER), str(folder / "vault"), str(folder / "key")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def start(self, seeds: list[str]) -> list[int]:
        """The victims' process ids, when all are at work."""
        self._send("".join(f"{seed}\n" for seed in seeds))
        ready: list[int] = []
        while len(ready) < len(seeds):
            pid, verb = self._read()
            if verb == "ready":
                ready.append(pid)
            assert verb != "ended", self.errors.read_text()
        return ready

    def wait(self, count: int) -> None:
        self._send("\n")
        while count:
            count -= self._read()[1] == "ended"
        assert "Traceback" not in self.errors.read_text(), self.errors.read_text()

    def close(self) -> None:
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()
        assert self.process.returncode == 0

    def _send(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def _read(self) -> tuple[int, str]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.errors.read_text()
        pid, verb, *words = line.split()
        if verb == "committed":
            self.committed[words[0]] = words[1]
        elif verb == "removing":
            self.removing.add(words[0])
        elif verb == "ended":
            assert words == ["-9"], self.errors.read_text()
        return int(pid), verb


def digest(data: dict[str, dict[str, bytes]]) -> str:
    return hashlib.sha256(data["app"]["a"] + data["app"]["b"]).hexdigest()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2))
def test_what_was_reported_survives_any_kill(tmp_path, seed):
    """Some processes work in one vault at a time and are killed one after the other; then everything is read back."""
    store = LocalStore(tmp_path / "vault", create=True)
    Vault.create(store, now=START, key_file=tmp_path / "key", cache=tmp_path / "cache")
    key = slots.read_key_file(tmp_path / "key")
    chance, driver = random.Random(seed), Driver(tmp_path)
    for round_ in range(KILLS // SIDE_BY_SIDE // 2):
        victims = driver.start([f"{seed} {round_} {n}" for n in range(SIDE_BY_SIDE)])
        for victim in victims:
            time.sleep(chance.random() * 0.15)  # the moment of the kill, not a synchronisation
            os.kill(victim, signal.SIGKILL)
        driver.wait(len(victims))
        verify(store, key, driver, thorough=round_ % 4 == 3)
    driver.close()
    vault = open_vault(store, key=key)
    prune(vault, vault.backups()[:-1])
    prune(vault)
    assert len(vault.backups()) == 1
    assert troubles(open_vault(store, key=key)) == []
    assert len(driver.committed) > 5
    store.close()


def verify(store: LocalStore, key: slots.KeyFile, reported: Driver, *, thorough: bool) -> None:
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
