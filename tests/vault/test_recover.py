"""recover.py gets everything out of a vault with nothing of keepwell at hand."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keepwell.core.progress import Silent
from keepwell.core.secrets import Secret
from keepwell.core.streams import Context
from keepwell.keys import slots
from keepwell.sources import files, sqlite
from keepwell.stores.local import LocalStore
from keepwell.vault.prune import prune
from keepwell.vault.vault import Vault

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NOW = dt.datetime(2026, 11, 22, 2, 0, tzinfo=dt.UTC)


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with what RECOVERY.md says to install, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    needed = ["cryptography", "backports.zstd"] if sys.version_info < (3, 14) else ["cryptography"]
    command = [
        folder / "bin/pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "-c",
        ROOT / "constraints.txt",
        *needed,
    ]
    subprocess.run(command, check=True)
    return folder / "bin/python"


class Place:
    """A vault with a SQLite database, a folder and a stream of bytes in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.vault_folder, self.key = folder, folder / "vault", folder / "key"
        store = LocalStore(self.vault_folder, create=True)
        self.vault = Vault.create(store, now=NOW, key_file=self.key, cache=folder / "cache")
        self.uploads = folder / "uploads"
        (self.uploads / "empty").mkdir(parents=True)
        (self.uploads / "a.txt").write_text("a contract\n")
        (self.uploads / "link").symlink_to("a.txt")
        os.link(self.uploads / "a.txt", self.uploads / "again.txt")
        with open(os.fsencode(self.uploads) + b"/\xff\xfe.bin", "wb") as file:
            file.write(random.Random(1).randbytes(300_000))
        self.database = folder / "app.db"
        import sqlite3

        connection = sqlite3.connect(self.database)
        connection.execute("create table users (id integer primary key, name text)")
        connection.executemany("insert into users (name) values (?)", [(f"user {n}",) for n in range(5000)])
        connection.commit()
        connection.close()
        self.noise = random.Random(2).randbytes(3_000_000)

    def backup(self, seconds: int, noise: bytes) -> str:
        now = NOW + dt.timedelta(seconds=seconds)
        with self.vault.begin(environment="production", tier="daily", now=now, pack_size=1 << 20) as session:
            session.done("app", sqlite.capture(sqlite.Spec(self.database), session.sink("app"), Context()))
            session.done("uploads", files.capture(files.Spec(self.uploads), session.sink("uploads"), Context()))
            stream = session.sink("noise").stream("bytes")
            stream.write(noise)
            stream.close()
            session.done("noise", {"type": "other", "bytes": len(noise)})
            return str(session.commit(database="app", host="test", seconds=1).id)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def recover(python: Path, place: Place, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    # From the vault, in an empty folder: nothing of the repository is importable.
    script = place.vault_folder / "recover.py"
    command = [python, "-I", script, place.vault_folder, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", stdin=subprocess.DEVNULL)


def tree(folder: Path) -> dict[bytes, tuple[int, int, bytes]]:
    found = {}
    for base, folders, names in os.walk(os.fsencode(folder)):
        for name in folders + names:
            path = os.path.join(base, name)
            about = os.lstat(path)
            content = os.readlink(path) if os.path.islink(path) else b""
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    content = hashlib.sha256(file.read()).digest()
            found[os.path.relpath(path, os.fsencode(folder))] = (about.st_mode, about.st_mtime_ns, content)
    return found


def test_everything_comes_out_without_keepwell(bare_python: Path, place: Place) -> None:
    alone = subprocess.run([bare_python, "-c", "import keepwell"], check=False, capture_output=True, cwd="/")
    assert alone.returncode != 0
    backup = place.backup(0, place.noise)
    listed = recover(bare_python, place, "list")
    assert backup in listed.stdout
    target = place.folder / "out"
    done = recover(bare_python, place, "restore", "production", "--key-file", place.key, "--to", target)
    assert done.returncode == 0, done.stderr
    assert (target / "noise/bytes").read_bytes() == place.noise
    assert (target / "app/database.db").read_bytes() == place.database.read_bytes()
    assert tree(target / "uploads") == tree(place.uploads)
    assert (target / "uploads/a.txt").stat().st_ino == (target / "uploads/again.txt").stat().st_ino


def test_a_passphrase_opens_it_and_a_writer_key_does_not(bare_python: Path, place: Place) -> None:
    backup = place.backup(0, place.noise)
    place.vault.add_slot(slots.Passphrase(Secret("correct horse")), role="reader", label="", now=NOW)
    place.vault.add_slot(place.folder / "writer.key", role="writer", label="", now=NOW)
    words = place.folder / "words"
    words.write_text("correct horse\n")
    assert recover(bare_python, place, "show", backup, "--passphrase-file", words).returncode == 0
    words.write_text("wrong horse\n")
    assert recover(bare_python, place, "show", backup, "--passphrase-file", words).returncode == 7
    refused = recover(bare_python, place, "show", backup, "--key-file", place.folder / "writer.key")
    assert refused.returncode == 7
    assert "writer" in refused.stderr


def test_frames_that_a_prune_moved_are_found(bare_python: Path, place: Place) -> None:
    place.backup(0, place.noise)
    # The second backup shares a third of the noise; then the first goes, and the packs are written anew.
    kept = place.noise[:1_200_000]
    backup = place.backup(1, kept)
    vault = Vault.open(place.vault.store, slots.read_key_file(place.key), cache=place.folder / "cache")
    report = prune(vault, [vault.backups()[0]], grace=dt.timedelta(0), progress=Silent())
    assert report.moved
    assert report.deleted_packs
    target = place.folder / "out"
    done = recover(bare_python, place, "restore", backup, "--key-file", place.key, "--to", target)
    assert done.returncode == 0, done.stderr
    assert (target / "noise/bytes").read_bytes() == kept


@pytest.mark.parametrize("how", ["flip", "truncate", "remove"])
def test_damage_is_named_and_the_rest_still_comes_out(bare_python: Path, place: Place, how: str) -> None:
    place.backup(0, place.noise)
    pack = max(place.vault_folder.glob("packs/*/*"), key=lambda path: path.stat().st_size)
    content = pack.read_bytes()
    pack.unlink()
    if how == "flip":
        middle = len(content) // 2
        pack.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif how == "truncate":
        pack.write_bytes(content[: len(content) // 2])
    target = place.folder / "out"
    command = ["restore", "production", "--key-file", str(place.key), "--to", str(target), "--keep-going"]
    done = recover(bare_python, place, *command)
    assert done.returncode == 1
    assert pack.name in done.stderr
    assert (target / "app/database.db").read_bytes() == place.database.read_bytes()


def test_nothing_is_overwritten(bare_python: Path, place: Place) -> None:
    place.backup(0, place.noise)
    target = place.folder / "out"
    target.mkdir()
    (target / "mine").write_text("mine")
    done = recover(bare_python, place, "restore", "production", "--key-file", place.key, "--to", target)
    assert done.returncode == 2
    assert sorted(path.name for path in target.iterdir()) == ["mine"]
    shutil.rmtree(target)
