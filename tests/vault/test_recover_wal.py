"""`recover.py wal`: the log as files that PostgreSQL reads, without keepwell."""

import subprocess
import sys
from pathlib import Path

import pytest
from test_wal_archive import BASE, HISTORY, SIZE, SYSTEM, log, put
from vaultkit import START

from keepwell.core.wal import segment_name
from keepwell.stores.local import LocalStore
from keepwell.vault.vault import Vault

pytestmark = pytest.mark.slow
RECOVER = Path(__file__).parents[2] / "src/keepwell/vault/rescue/recover.py"
NAMES = [segment_name(1, BASE + n * SIZE, SIZE) for n in range(5)]


class Place:
    def __init__(self, folder):
        self.folder, self.key, self.out = folder / "vault", folder / "key", folder / "out"
        store = LocalStore(self.folder, create=True)
        self.vault = Vault.create(store, now=START, key_file=self.key, cache=folder / "cache")
        self.wal = self.vault.wal("production", "app", SYSTEM)

    def run(self, *more, to=None):
        command = [
            sys.executable,
            "-I",
            RECOVER,
            self.folder,
            "wal",
            "production/app",
            "--to",
            to or self.out,
            "--key-file",
        ]
        done = subprocess.run([*command, self.key, *more], capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout, done.stderr

    def damage(self, part):
        (path,) = self.folder.rglob(part)
        raw = bytearray(path.read_bytes())
        raw[-100] ^= 1
        path.chmod(0o600)
        path.write_bytes(raw)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_parts_become_segments_and_the_end_is_filled_up(place):
    put(place.wal, BASE, log())
    put(place.wal, BASE, log()[:500])
    put(place.wal, BASE + SIZE, log(BASE + SIZE, 3000))
    put(place.wal, BASE + SIZE + 2000, log(BASE + SIZE + 2000, 70000))
    place.wal.put_file("00000002.history", HISTORY, time=START)
    code, out, err = place.run()
    assert (code, err) == (0, "")
    assert sorted(path.name for path in place.out.iterdir()) == [*NAMES[:2], "00000002.history"]
    assert (place.out / NAMES[0]).read_bytes() == log()
    assert (place.out / NAMES[1]).read_bytes() == log(BASE + SIZE, 72000) + bytes(SIZE - 72000)
    assert (place.out / "00000002.history").read_bytes() == HISTORY
    assert f"up to 0/{BASE + SIZE + 72000:X}" in out


@pytest.mark.parametrize("missing", [1, 2])
def test_a_gap_is_named(place, missing):
    for number in range(4):
        if number != missing:
            put(place.wal, BASE + number * SIZE, log(BASE + number * SIZE))
    code, _, err = place.run()
    assert code == 0
    assert f"GAP: log of timeline 1 is missing from position {BASE + missing * SIZE:X} (hex) on" in err
    assert err.count("GAP") == 1


def test_a_hole_in_a_segment_is_named(place):
    put(place.wal, BASE, log(BASE, 1000))
    put(place.wal, BASE + 2000, log(BASE + 2000, 1000))
    put(place.wal, BASE + SIZE, log(BASE + SIZE))
    _, _, err = place.run()
    assert f"missing from position {BASE + 1000:X} (hex) on" in err


def test_damage_ends_it_and_can_be_passed_over(place):
    put(place.wal, BASE, log())
    put(place.wal, BASE + SIZE, log(BASE + SIZE))
    place.damage(f"{BASE:016X}-*")
    code, _, err = place.run()
    assert code == 1
    assert NAMES[0] in err
    code, _, err = place.run("--keep-going", to=place.folder.parent / "again")
    assert code == 1
    assert (place.folder.parent / "again" / NAMES[1]).read_bytes() == log(BASE + SIZE)
    assert "DAMAGED" in err


def test_mistakes_are_told(place):
    assert "there is log of: nothing" in place.run()[2]
    put(place.wal, BASE, log())
    put(place.vault.wal("production", "app", "42"), BASE, log(seed=2))
    code, _, err = place.run()
    assert code == 2
    assert f"--system must be one of 42, {SYSTEM}" in err
    assert place.run("--system", "42")[0] == 0
    assert (place.out / NAMES[0]).read_bytes() == log(seed=2)
    assert place.run("--system", "42")[0] == 2  # the folder is there
    assert place.run(to=place.folder / "inside")[0] == 2


def test_a_writer_key_cannot(place):
    put(place.wal, BASE, log())
    place.vault.add_slot(place.folder.parent / "writer", role="writer", label="w", now=START)
    place.key = place.folder.parent / "writer"
    code, _, err = place.run()
    assert code == 7
    assert "writer key" in err
