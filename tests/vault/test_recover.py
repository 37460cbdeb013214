"""The worst day: `recover.py` from the vault brings data back in an environment that has no keepwell."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from vaultkit import START, noise, prune

from keepwell.core.errors import ProgramMissing
from keepwell.core.secrets import Secret
from keepwell.core.streams import Context
from keepwell.keys import slots
from keepwell.sources import files, postgres, sqlite
from keepwell.sources.postgres.programs import servers
from keepwell.sources.postgres.server import ThrowawayServer, free_port
from keepwell.stores.local import LocalStore
from keepwell.vault import frame as framing
from keepwell.vault import pack as packing
from keepwell.vault.catalog import Backup, Proof
from keepwell.vault.vault import Vault
from support.servers import unavailable

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
SHIPPED = REPOSITORY / "src/keepwell/vault/rescue"
PASSPHRASE = "correct horse battery staple ä"
PACK = 4 << 20
ONLY = ("--source", "app")

Capture = Callable[[Any], dict[str, Any]]
Streams = Mapping[str, bytes]


@dataclass
class Ran:
    code: int
    out: str
    err: str


def run(*command: str | Path) -> Ran:
    """Without a terminal, so that nothing can wait for a passphrase."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd="/",
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
        timeout=120,
        check=False,
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with cryptography and backports.zstd, and nothing else."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    options = ("--quiet", "--disable-pip-version-check", "-c", REPOSITORY / "constraints.txt")
    packages = ("cryptography", *(("backports.zstd",) if sys.version_info < (3, 14) else ()))
    done = subprocess.run(
        [python, "-m", "pip", "install", *options, *packages], capture_output=True, text=True, check=False
    )
    if done.returncode:
        unavailable(f"no package index within reach: {done.stderr[-300:]}")
    return python


@dataclass
class Place:
    """A vault in a folder, opened by two readers (passphrase and key file) and a writer (key file)."""

    folder: Path
    python: Path
    vault: Vault

    @property
    def root(self) -> Path:
        return self.folder / "vault"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def packs(self) -> list[Path]:
        return sorted(self.root.glob("packs/*/*"))

    def back_up(self, sources: Mapping[str, Capture | Streams], hours: int = 0, facts: Any = None) -> Backup:
        at = START + dt.timedelta(hours=hours)
        with self.vault.begin(environment="production", tier="daily", now=at, pack_size=PACK) as session:
            for source, content in sources.items():
                sink = session.sink(source)
                if callable(content):
                    session.done(source, content(sink))
                    continue
                for name, data in content.items():
                    stream = sink.stream(name)
                    stream.write(data)
                    stream.close()
                session.done(source, facts or {"type": "other"})
            return session.commit(database="app", host="test", seconds=1.0)

    def recover(
        self, *args: str | Path, key: tuple[str, str] | None = ("--key-file", "key"), python: Any = None
    ) -> Ran:
        """With the program as it lies in the vault."""
        given = (key[0], self.folder / key[1]) if key else ()
        return run(python or self.python, self.root / "recover.py", self.root, *args, *given)

    def restore(self, *more: str | Path, backup: str = "production@latest", python: Any = None, **key: Any) -> Ran:
        return self.recover("restore", backup, "--to", self.out, *more, python=python, **key)

    def streams(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.out / "streams").iterdir()}


@pytest.fixture
def place(tmp_path: Path, bare: Path) -> Place:
    store = LocalStore(tmp_path / "vault", create=True)
    phrase = slots.Passphrase(Secret(PASSPHRASE))
    vault = Vault.create(store, now=START, passphrase=phrase, cache=tmp_path / "cache")
    vault.add_slot(tmp_path / "key", role="reader", label="", now=START)
    vault.add_slot(tmp_path / "writer", role="writer", label="", now=START)
    (tmp_path / "phrase").write_text(PASSPHRASE + "\n")
    (tmp_path / "wrong").write_text("guessed\n")
    return Place(tmp_path, bare, vault)


def fingerprint(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}" for path in found}


DATA = {
    "dump": b"".join(b"line %d of the dump\n" % n for n in range(200_000)),
    "empty": b"",
    "noise": noise("recover", 1_500_000),
    "../odd name/\n": b"short",
}


# Independence


def test_the_bare_environment_has_neither_keepwell_nor_blake3(bare: Path) -> None:
    for module in ("keepwell", "blake3", "numpy"):
        assert "ModuleNotFoundError" in run(bare, "-c", f"import {module}").err
    assert run(bare, "-c", "import cryptography").code == 0


def test_the_vault_carries_the_shipped_program_and_page(place: Place) -> None:
    listed = json.loads((place.root / "vault.json").read_text())["recovery"]
    for name in ("recover.py", "RECOVERY.md"):
        assert (place.root / name).read_bytes() == (SHIPPED / name).read_bytes()
        assert listed[name] == hashlib.sha256((place.root / name).read_bytes()).hexdigest()


def test_list_needs_no_library_and_decrypting_says_which_are_missing(place: Place) -> None:
    backup = place.back_up({"app": DATA})
    program = (place.python, "-I", "-S", place.root / "recover.py", place.root)  # -S: no installed packages
    listed = run(*program, "list")
    assert (listed.code, str(backup.id) in listed.out, "Not verified" in listed.out) == (0, True, True)
    refused = run(*program, "restore", "production", "--to", place.out, "--key-file", place.folder / "key")
    assert refused.code == 1
    assert "pip install cryptography backports.zstd" in refused.err


# What comes out


@pytest.mark.parametrize(
    "key", [("--key-file", "key"), ("--passphrase-file", "phrase")], ids=["key file", "passphrase"]
)
def test_streams_come_back_byte_for_byte_and_the_vault_is_not_touched(place: Place, key: tuple[str, str]) -> None:
    place.back_up({"app": DATA | {"dump": b"older"}})
    backup = place.back_up({"app": DATA, "more": {"dump": b"another source"}}, hours=1)
    before = fingerprint(place.root)
    done = place.restore(*ONLY, key=key)
    assert (done.code, done.err) == (0, "")
    assert str(backup.id) in done.out
    assert "packs by SHA-256 (blake3 is not installed)" in done.out
    assert {path.name for path in place.out.iterdir()} == {"streams"}
    assert place.streams() == {
        "dump": DATA["dump"],
        "empty": b"",
        "noise": DATA["noise"],
        "..%2Fodd%20name%2F%0A".replace("..", "%2E.", 1): b"short",
    }
    assert fingerprint(place.root) == before


def test_the_keepwell_environment_checks_pieces_and_digests_too(place: Place) -> None:
    place.back_up({"app": DATA})
    done = place.restore(python=sys.executable)
    assert (done.code, done.err) == (0, "")
    assert "pieces by their ids, streams by their digests" in done.out
    assert place.streams()["noise"] == DATA["noise"]


def test_one_stream_can_be_had_alone_from_an_older_backup(place: Place) -> None:
    old = place.back_up({"app": DATA | {"dump": b"older"}})
    place.back_up({"app": DATA}, hours=24)
    assert place.restore("--stream", "dump", backup=str(old.id)).code == 0
    assert place.streams() == {"dump": b"older"}
    shutil.rmtree(place.out)
    assert place.restore("--stream", "dump", backup=f"production@{START.date()}").code == 0
    assert place.streams() == {"dump": b"older"}
    shutil.rmtree(place.out)
    refused = place.restore("--stream", "dumb")
    assert (refused.code, "there is no stream dumb" in refused.err, place.out.exists()) == (2, True, False)


def test_list_and_show_tell_what_there_is(place: Place) -> None:
    facts = {"type": "sqlite", "bytes": 7, "tables": {"leads": {"rows": 4711}}}
    proven = place.back_up({"app": {"database": b"x"}}, facts=facts)
    place.vault.record(proven, Proof(str(proven.id), proven.checksum, START, "restore", True, "", {}))
    newer = place.back_up({"app": {"database": b"y"}}, hours=1, facts=facts)
    for key in (None, ("--key-file", "writer")):
        listed = place.recover("list", key=key)
        assert listed.code == 0
        first, second, last = listed.out.splitlines()
        assert (str(proven.id) in first, "proven 2026-11-22 (restore)" in first) == (True, True)
        assert (str(newer.id) in second, "no proof" in second) == (True, True)
        assert last == ("2 backups. Verified." if key else "2 backups. Not verified, since no key was given.")
    shown = place.recover("show", "production@proven")
    assert shown.code == 0
    assert str(proven.id) in shown.out
    assert "table leads: 4711 rows" in shown.out
    assert "stream database: 1 bytes" in shown.out


def test_postgres_text_is_put_together_in_the_order_of_the_dump(place: Place) -> None:
    # In the manifest they stand in the order in which they were begun, which is another one here.
    streams = {"post-data": b"5", "data-1": b"3", "data-0": b"2", "pre-data": b"1", "data-rest": b"4"}
    order = ["globals", "pre-data", "data-0", "data-1", "data-rest", "post-data", "schema.custom"]
    extra = {"globals": b"CREATE ROLE", "schema.custom": b"PGDMP"}
    place.back_up({"app": streams | extra}, facts={"type": "postgres", "streams": order})
    assert place.restore().code == 0
    assert (place.out / "database.sql").read_bytes() == b"12345"
    assert place.streams() == extra
    shutil.rmtree(place.out)
    assert place.restore("--raw").code == 0
    assert place.streams() == streams | extra


@pytest.fixture
def server() -> Iterator[ThrowawayServer]:
    try:
        programs = servers(15)
    except ProgramMissing as missing:
        unavailable(missing.message)
    folder = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp", f"keepwell-recover-{os.getpid()}")
    folder.mkdir()
    folder.chmod(0o755)
    started = ThrowawayServer(programs, folder / "server", port=free_port())
    try:
        started.start()
        yield started
        started.stop(keep=False)
    finally:
        shutil.rmtree(folder)


def test_a_postgres_database_can_be_loaded_with_psql(place: Place, server: ThrowawayServer) -> None:
    def sql(database: str, text: str, *, rows: bool = False) -> Any:
        with psycopg.connect(server.url(database).reveal(), autocommit=True) as connection:
            cursor = connection.execute(text)
            return cursor.fetchall() if rows else None

    sql("postgres", "CREATE DATABASE app")
    sql("app", "CREATE TABLE users (id int PRIMARY KEY, name text)")
    sql("app", "CREATE TABLE leads (id serial PRIMARY KEY, owner int REFERENCES users, note text)")
    sql("app", r"INSERT INTO users SELECT n, E'tab\tand \\. ' || n FROM generate_series(1, 500) n")
    sql(
        "app",
        "INSERT INTO leads (owner, note) SELECT n % 500 + 1, repeat(md5(n::text), 9) FROM generate_series(1, 9000) n",
    )
    place.back_up({"app": lambda sink: postgres.capture(postgres.Spec(server.url("app")), sink, Context())})
    done = place.restore()
    assert (done.code, done.err) == (0, "")
    sql("postgres", "CREATE DATABASE back")
    psql = postgres.programs.clients(15).path("psql")
    arguments = [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", server.url("back").reveal()]
    subprocess.run([*arguments, "-f", place.out / "database.sql"], check=True, stdout=subprocess.DEVNULL)
    for question in (
        "SELECT * FROM users ORDER BY id",
        "SELECT * FROM leads ORDER BY id",
        "SELECT last_value FROM leads_id_seq",
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint ORDER BY 1",
    ):
        assert sql("back", question, rows=True) == sql("app", question, rows=True)
    assert b"CREATE ROLE" in place.streams()["globals"]


def test_a_sqlite_database_comes_back_as_it_was(place: Place) -> None:
    path = place.folder / "dev.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE leads (id INTEGER PRIMARY KEY, name TEXT)")
        connection.executemany("INSERT INTO leads (name) VALUES (?)", [(f"lead {n}",) for n in range(20_000)])
    place.back_up({"app": lambda sink: sqlite.capture(sqlite.Spec(path), sink, Context())})
    assert place.restore().code == 0
    assert {found.name for found in place.out.iterdir()} == {"database.db"}
    with closing(sqlite3.connect(place.out / "database.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*), max(name) FROM leads").fetchall() == [(20_000, "lead 9999")]


def make_tree(root: Path) -> None:
    (root / "2026" / "deep").mkdir(parents=True)
    (root / "empty folder").mkdir()
    (root / "2026" / "contract.pdf").write_bytes(noise("pdf", 700_000))
    (root / "2026" / "deep" / "note ü.txt").write_text("note")
    (root / "empty").write_bytes(b"")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o750)
    (root / "2026" / "same.pdf").hardlink_to(root / "2026" / "contract.pdf")
    (root / "outside").symlink_to("/etc/passwd")
    (root / "folder link").symlink_to("2026")
    Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9")).write_bytes(b"latin-1")
    (root / "2026").chmod(0o500)
    for number, path in enumerate(sorted(root.rglob("*"))):
        os.utime(path, ns=(0, 10**18 + number * 10**9 + 123), follow_symlinks=False)


def tree(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        about, name = path.lstat(), str(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = (about.st_mode, about.st_mtime_ns)
        else:
            found[name] = (about.st_mode, about.st_mtime_ns, about.st_nlink, path.read_bytes())
    return found


def test_a_folder_comes_back_with_links_rights_and_times(place: Place) -> None:
    source = place.folder / "uploads"
    make_tree(source)
    place.back_up({"app": lambda sink: files.capture(files.Spec(source), sink, Context())})
    done = place.restore()
    assert (done.code, done.err) == (0, "")
    assert {found.name for found in place.out.iterdir()} == {"files"}
    assert tree(place.out / "files") == tree(source)


def line(path: str, kind: str = "file", **more: Any) -> bytes:
    entry = {"path": path, "type": kind, "mode": 0o755, "uid": os.getuid(), "gid": os.getgid(), "mtime_ns": 0}
    content = {"size": 4, "offset": 0, "digest": ""} if kind in {"file", "hardlink"} else {}
    return json.dumps(entry | content | more).encode() + b"\n"


ROOT = line(".", "folder")


@pytest.mark.parametrize(
    "lines",
    [
        line("../evil"),
        line("/evil"),
        line("a/../../evil"),
        line("a", "folder") + line("a/./evil"),
        line("a\0b"),
        line("", path64=base64.b64encode(b"../evil").decode()).replace(b'"path": "", ', b""),
        line("a", "symlink", target="..") + line("a/evil"),
        line("a", "symlink", target="..") + line("a", "folder") + line("a/evil"),
        line("evil", "hardlink", target="../secret"),
        line("a", "symlink", target="../..") + line("evil", "hardlink", target="a/secret", size=9),
        line("not there/evil"),
        line("evil", "device"),
    ],
    ids=str,
)
def test_nothing_is_written_outside_the_new_folder(place: Place, lines: bytes) -> None:
    (place.folder / "secret").write_text("secret")
    streams = {"tree": ROOT + lines, "content": b"evil"}
    place.back_up({"app": streams}, facts={"type": "files", "files": 1})
    before = fingerprint(place.folder)
    done = place.restore()
    assert done.code == 1
    assert "ERROR: " in done.err
    inside = {path for path in fingerprint(place.folder) if path.startswith(str(place.out))}
    assert fingerprint(place.folder).keys() - inside == before.keys()
    assert not any("evil" in path for path in inside)
    assert not (place.out / "files").exists()


@pytest.mark.parametrize("wrong", [2, 0])
def test_a_tree_that_lacks_files_is_not_called_whole(place: Place, wrong: int) -> None:
    streams = {"tree": ROOT + line("one"), "content": b"1234"}
    place.back_up({"app": streams}, facts={"type": "files", "files": wrong})
    done = place.restore()
    assert (done.code, "1 files came out of the vault" in done.err) == (1, True)
    assert {path.name for path in place.out.iterdir()} == {"files.incomplete"}


# Refusals


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (("--key-file", "writer"), "writer key"),
        (("--passphrase-file", "wrong"), "the passphrase is wrong"),
        (("--key-file", "phrase"), "not a keepwell key file"),
        (("--key-file", "nowhere"), "cannot be read"),
        (None, "a key is needed"),
    ],
)
@pytest.mark.parametrize("command", ["show", "restore"])
def test_without_a_reader_key_it_exits_7_and_writes_nothing(
    place: Place, command: str, key: tuple[str, str] | None, words: str
) -> None:
    place.back_up({"app": DATA})
    done = place.restore(key=key) if command == "restore" else place.recover("show", "production", key=key)
    assert (done.code, words in done.err, place.out.exists()) == (7, True, False)
    assert "guessed" not in done.err
    assert "Traceback" not in done.err


def test_the_key_of_another_vault_is_told_apart(place: Place) -> None:
    LocalStore(place.folder / "other", create=True)
    Vault.create(
        LocalStore(place.folder / "other"), now=START, key_file=place.folder / "other.key", cache=place.folder / "c"
    )
    done = place.recover("list", key=("--key-file", "other.key"))
    assert (done.code, "the key of another vault" in done.err) == (7, True)


def test_nothing_is_overwritten(place: Place) -> None:
    place.back_up({"app": DATA})
    place.out.mkdir()
    assert place.restore().code == 0, "an empty folder is fine"
    before = fingerprint(place.out)
    again = place.restore()
    assert (again.code, "nothing is ever overwritten" in again.err) == (2, True)
    assert fingerprint(place.out) == before
    inside = place.recover("restore", "production", "--to", place.root / "production" / "out")
    assert (inside.code, "inside the vault" in inside.err) == (2, True)


def test_what_is_not_there_is_a_usage_error(place: Place) -> None:
    place.back_up({"app": DATA, "more": {"dump": b"more"}})
    assert place.restore("--source", "nothing").code == 2
    undecided = place.restore()
    assert (undecided.code, "--source must be one of app, more" in undecided.err) == (2, True)
    assert place.restore(backup="production@2020-01-01").code == 2
    assert place.restore(backup="staging").code == 2
    assert run(place.python, place.root / "recover.py", place.folder, "list").code == 2
    assert place.recover("give back").code == 2


def test_a_source_that_failed_and_a_backup_that_died_are_named(place: Place) -> None:
    with place.vault.begin(environment="production", tier="daily", now=START) as session:
        for name in ("app", "more"):
            session.sink(name).stream("dump").close()
        session.done("app", {"type": "other"})
        session.failed("more", "the server was down")
        session.commit(database="", host="", seconds=1)
    done = place.restore("--source", "more")
    assert (done.code, "the server was down" in done.err) == (1, True)
    died = place.back_up({"app": DATA}, hours=1)
    (place.root / died.metadata).unlink()
    listed = place.recover("list")
    assert (listed.code, listed.out.count("incomplete"), listed.out.count("unfinished")) == (0, 1, 1)
    assert place.restore(backup=str(died.id)).code == 2


# Damage


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def pack_of(place: Place, streams: Streams) -> Path:
    """Backs these up, and says which pack is new."""
    before = place.packs
    place.back_up({"part": streams}, hours=-1)
    (new,) = set(place.packs) - set(before)
    return new


@pytest.fixture
def two(place: Place) -> tuple[Place, Path]:
    """A backup of streams `bad` and `good`, and the pack that only `bad` needs."""
    bad = noise("bad", 900_000)
    pack = pack_of(place, {"bad": bad})
    place.back_up({"app": {"bad": bad, "good": DATA["dump"]}})
    return place, pack


DAMAGES = {
    "flipped at the beginning": lambda pack: flip(pack, 0),
    "flipped birth id": lambda pack: flip(pack, 9),
    "flipped sealed key": lambda pack: flip(pack, 200),
    "flipped in a frame": lambda pack: flip(pack, pack.stat().st_size // 2),
    "cut short": lambda pack: os.truncate(pack, pack.stat().st_size // 3),
    "empty": lambda pack: os.truncate(pack, 0),
    "missing": lambda pack: pack.unlink(),
    "another pack in its place": lambda pack: shutil.copy(
        next(p for p in sorted(pack.parents[1].glob("*/*")) if p != pack), pack
    ),
}


@pytest.mark.parametrize("blake3", [False, True], ids=["bare", "with blake3"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_named_and_the_rest_can_be_saved(
    two: tuple[Place, Path], damage: Callable[[Path], object], blake3: bool
) -> None:
    place, pack = two
    damage(pack)
    python = sys.executable if blake3 else None
    done = place.restore(*ONLY, python=python)
    assert (done.code, f"packs/{pack.parent.name}/{pack.name}" in done.err) == (1, True)
    assert "Traceback" not in done.err
    assert "--keep-going" in done.err
    assert "bad" not in place.streams(), "what is not whole does not have the name of the whole"
    shutil.rmtree(place.out)
    done = place.restore(*ONLY, "--keep-going", python=python)
    assert (done.code, f"packs/{pack.parent.name}/{pack.name}" in done.err) == (1, True)
    assert "NOT WHOLE" in done.out
    assert place.streams().keys() == {"bad.incomplete", "good"}
    assert place.streams()["good"] == DATA["dump"]


def test_a_flipped_trailer_is_seen_where_the_pieces_cannot_be_checked(two: tuple[Place, Path]) -> None:
    place, pack = two
    flip(pack, pack.stat().st_size - 20)
    done = place.restore(*ONLY)
    assert (done.code, "its SHA-256 is not its name" in done.err) == (1, True)
    shutil.rmtree(place.out)
    assert place.restore(*ONLY, "--keep-going").code == 1
    assert place.streams()["bad"] == noise("bad", 900_000), "all its frames are right"
    shutil.rmtree(place.out)
    assert place.restore(*ONLY, python=sys.executable).code == 0


def test_what_is_lost_of_a_database_file_becomes_zeros(place: Place) -> None:
    content = noise("pages", 1_000_000)

    def capture(sink: Any) -> dict[str, Any]:
        stream = sink.stream("database", "pages")
        stream.write(content)
        stream.close()
        return {"type": "sqlite"}

    place.back_up({"app": capture})
    flip(place.packs[0], place.packs[0].stat().st_size // 2)
    assert place.restore("--keep-going").code == 1
    (found,) = place.out.iterdir()
    saved = found.read_bytes()
    assert (found.name, len(saved)) == ("database.db.incomplete", len(content))
    different = [at for at in range(0, len(content), 8192) if saved[at : at + 8192] != content[at : at + 8192]]
    assert 0 < len(different) <= 65, "one frame of 512 KiB"
    assert not any(saved[different[0] : different[-1] + 8192])


def test_of_a_damaged_folder_all_other_files_come_back(place: Place) -> None:
    source = place.folder / "uploads"
    make_tree(source)
    (source / "aaa").write_bytes(noise("aaa", 600_000))
    pack = pack_of(place, {"content": noise("aaa", 600_000)})
    place.back_up({"app": lambda sink: files.capture(files.Spec(source), sink, Context())})
    pack.unlink()
    assert place.restore().code == 1
    shutil.rmtree(place.out)
    done = place.restore("--keep-going")
    assert (done.code, "the file aaa is lost" in done.err) == (1, True)
    expected = tree(source)
    del expected["aaa"]
    assert tree(place.out / "files.incomplete") == expected


@pytest.mark.parametrize("blake3", [False, True], ids=["bare", "with blake3"])
def test_a_pack_that_a_stranger_made_with_the_public_key_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch, blake3: bool
) -> None:
    place.back_up({"app": {"dump": noise("mine", 100_000)}})
    (path,), keys = place.packs, place.vault.keyring
    raw = memoryview(path.read_bytes())
    ((birth, sealed),) = packing.sections(raw, what="")
    (entry,) = place.vault.entries()
    at, length = int(entry.offset[0]), int(entry.length[0])
    box = AESGCM(keys.unseal("pack", birth, sealed, what=""))
    lengths, _ = framing.open_frame(box, keys.vault, birth, 0, raw[at : at + length], what="")
    # The same frame for all that its tag and lengths can tell; only the pieces are others.
    with monkeypatch.context() as patch:
        patch.setattr(os, "urandom", lambda size: birth if size == 16 else bytes(size))
        forged = packing.PackBuilder(keys)
    payload = framing.compress(lengths, [noise(number, size) for number, size in enumerate(lengths)], 3)
    reserved = forged.reserve(payload.stored, [bytes(16)] * len(lengths))
    assert (reserved, payload.stored) == ((0, at), length)
    forged.fill(*reserved, payload)
    path.write_bytes(forged.finish()[0])
    done = place.restore(python=sys.executable if blake3 else None)
    assert (done.code, f"packs/{path.parent.name}/{path.name}" in done.err) == (1, True)
    assert ("does not hold the pieces" if blake3 else "SHA-256 is not its name") in done.err


@pytest.mark.parametrize("name", ["metadata.json", "manifest"])
@pytest.mark.parametrize("change", [flip, os.truncate], ids=["flipped", "cut short"])
def test_altered_metadata_and_manifests_are_found(place: Place, name: str, change: Callable[[Path, int], None]) -> None:
    path = place.root / place.back_up({"app": DATA}).folder / name
    change(path, path.stat().st_size // 2)
    done = place.restore()
    assert (done.code, name in done.err, place.out.exists()) == (1, True, False)
    assert "Traceback" not in done.err


def test_metadata_that_someone_rewrote_is_found_and_the_manifest_still_gives_the_data(place: Place) -> None:
    path = place.root / place.back_up({"app": DATA}).metadata
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"status": "incomplete"}, indent=2, sort_keys=True) + "\n")
    listed = place.recover("list")
    assert (listed.code, "authentication code" in listed.err) == (1, True)
    assert place.restore().code == 1
    done = place.restore("--keep-going")
    assert (done.code, place.streams()["dump"] == DATA["dump"]) == (1, True)


def test_a_replaced_vault_json_is_told_and_does_not_keep_the_data(place: Place) -> None:
    place.back_up({"app": DATA})
    path = place.root / "vault.json"
    path.write_text(path.read_text().replace('"created": "2', '"created": "3'))
    done = place.restore()
    assert (done.code, "vault.json is not the one" in done.err) == (1, True)
    assert place.streams()["dump"] == DATA["dump"]


def test_a_vault_with_features_of_the_future_is_refused(place: Place) -> None:
    path = place.root / "vault.json"
    document = json.loads(path.read_text())
    document["features"]["read"] = ["bases"]
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    done = place.recover("list")
    assert (done.code, "needs a newer recover.py" in done.err) == (1, True)


# After a prune


@pytest.fixture
def moved(place: Place) -> Place:
    """A backup whose frames a prune has moved out of the pack that its manifest names."""
    kept = {"dump": DATA["dump"][:200_000], "other": noise("other", 50_000)}
    first = place.back_up({"app": kept | {"big": noise("big", 3_000_000)}})
    place.back_up({"app": kept}, hours=1)
    named = set(place.packs)
    report = prune(place.vault, [first])
    assert report.moved > 0
    assert not named & set(place.packs)
    return place


@pytest.mark.parametrize("lost", ["nothing", "index", "an index entry"])
def test_moved_frames_are_found_in_the_index_or_in_the_packs_themselves(moved: Place, lost: str) -> None:
    for path in (moved.root / "index").iterdir() if lost != "nothing" else ():
        if lost == "index":
            path.unlink()
        else:
            flip(path, 60)
    done = moved.restore()
    assert done.code == 0
    assert moved.streams() == {"dump": DATA["dump"][:200_000], "other": noise("other", 50_000)}
    assert ("is used instead" in done.err) == (lost == "an index entry")


def test_moved_frames_are_checked_like_others(moved: Place) -> None:
    (pack,) = moved.packs
    flip(pack, pack.stat().st_size // 2)
    assert moved.restore().code == 1
    shutil.rmtree(moved.out)
    pack.unlink()
    done = moved.restore()
    assert (done.code, "is missing" in done.err) == (1, True)


def test_a_backup_that_a_prune_condemned_can_be_had_until_it_is_swept(place: Place) -> None:
    backup = place.back_up({"app": DATA})
    prune(place.vault, [backup], grace=dt.timedelta(days=1))
    assert "to be deleted" in place.recover("list").out
    assert place.restore().code == 0
