"""SQLite: consistent copies, exact digests, restores that never overwrite, proofs that can fail."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import math
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from keepwell.core.clock import FakeClock
from keepwell.core.errors import Damaged, Interrupted, SourceError, TargetNotEmpty, UsageError
from keepwell.core.streams import Context, Discard, Finding, MemoryStreams
from keepwell.sources import sqlite
from keepwell.sources.base import RestoreRequest
from keepwell.sources.sqlite import dump, tables

EVERYTHING = RestoreRequest()
RICH = """
CREATE TABLE users(id INTEGER PRIMARY KEY AUTOINCREMENT, email TEXT UNIQUE NOT NULL);
CREATE TABLE leads(id INTEGER PRIMARY KEY, owner INT REFERENCES users(id), name TEXT, score REAL, photo BLOB,
                   upper_name TEXT GENERATED ALWAYS AS (upper(name)) VIRTUAL);
CREATE INDEX leads_owner ON leads(owner);
CREATE TABLE "odd ""name"" Ä"("a b" INT, "select" TEXT, rowid TEXT);
CREATE TABLE pairs(a TEXT COLLATE NOCASE, b INT, PRIMARY KEY(a, b)) WITHOUT ROWID;
CREATE INDEX pairs_b ON pairs(b);
CREATE TABLE untouched(x);
CREATE VIRTUAL TABLE docs USING fts5(body);
CREATE VIEW good_leads AS SELECT * FROM leads WHERE score > 1;
CREATE TRIGGER leads_gone AFTER DELETE ON leads BEGIN DELETE FROM pairs WHERE b = old.id; END;
INSERT INTO users(email) VALUES ('a@example.com'), ('b@example.com');
INSERT INTO leads(owner, name, score, photo) VALUES (1, 'Ünal', 0.1, X'00ff'), (2, 'it''s', 1e308, NULL), (NULL, '', -1.5, X'');
INSERT INTO leads(name) VALUES (CAST(X'fffe61' AS TEXT)), ('a' || char(0) || 'b'), ('line' || char(13, 10) || 'end');
INSERT INTO "odd ""name"" Ä" VALUES (9223372036854775807, 'x', 'y'), (-9223372036854775808, 9e999, X'61');
INSERT INTO pairs VALUES ('z', 1), ('a', 3), ('A', 2);
INSERT INTO docs VALUES ('the quick brown fox'), ('lazy dogs');
PRAGMA user_version = 7;
PRAGMA application_id = 4711;
"""


def make(path: Path, script: str = RICH) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return path


def change(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def take(path: Path, context: Context | None = None) -> tuple[dict, MemoryStreams]:
    streams = MemoryStreams()
    return sqlite.capture(sqlite.Spec(path), streams, context or Context()), streams


@pytest.fixture
def rich(tmp_path: Path) -> Path:
    (tmp_path / "live").mkdir()
    return make(tmp_path / "live" / "dev.db")


def test_facts_tell_rows_and_settings(rich: Path) -> None:
    facts, streams = take(rich)
    assert facts["type"] == "sqlite"
    assert facts["database"] == "dev.db"
    assert facts["streams"] == ["database"] == streams.names()
    assert facts["bytes"] == len(streams.data["database"])
    rows = {name: table["rows"] for name, table in facts["tables"].items() if not name.startswith("docs_")}
    assert rows == {"users": 2, "leads": 6, 'odd "name" Ä': 2, "pairs": 3, "untouched": 0}
    assert facts["tables"]["docs_content"]["rows"] == 2
    assert "docs" not in facts["tables"]
    assert "good_leads" not in facts["tables"]
    assert facts["internal"].keys() == {"sqlite_sequence"}
    assert (facts["user_version"], facts["application_id"]) == (7, 4711)
    assert facts["warnings"] == []


def test_a_whole_restore_is_byte_for_byte_and_proves_equal(rich: Path, tmp_path: Path) -> None:
    rich.chmod(0o640)
    facts, streams = take(rich)
    place = tmp_path / "new" / "back.db"
    report = sqlite.restore(facts, streams, sqlite.Target(place), EVERYTHING, Context())
    assert place.read_bytes() == bytes(streams.data["database"])
    assert place.stat().st_mode & 0o777 == 0o640
    assert report.tables["leads"] == 6
    assert os.listdir(place.parent) == ["back.db"]
    again = sqlite.capture(sqlite.respec(sqlite.Target(place), facts, sqlite.Spec(rich)), Discard(), Context())
    assert sqlite.compare(facts, again) == []
    assert sqlite.examine(sqlite.Target(place), facts, Context()) == []
    assert sqlite.count_rows(sqlite.Target(place), facts)["leads"] == 6


def test_the_sandbox_is_private_and_goes_away(rich: Path) -> None:
    facts, streams = take(rich)
    with sqlite.sandbox(facts, Context()) as target:
        sqlite.restore(facts, streams, target, EVERYTHING, Context())
        assert target.path.parent.stat().st_mode & 0o077 == 0
        assert sqlite.examine(target, facts, Context()) == []
    assert not target.path.parent.exists()


def test_a_wal_database_includes_what_is_only_in_the_wal_and_stays_in_wal_mode(tmp_path: Path) -> None:
    path = make(tmp_path / "w.db", "PRAGMA journal_mode=WAL; CREATE TABLE t(a);")
    with contextlib.closing(sqlite3.connect(path)) as writer:
        writer.execute("INSERT INTO t VALUES (1)")
        writer.commit()
        writer.execute("INSERT INTO t VALUES (2)")  # not committed: must not be in the backup
        assert Path(f"{path}-wal").stat().st_size > 0
        facts, streams = take(path)
        writer.commit()
    assert facts["journal_mode"] == "wal"
    assert facts["tables"]["t"]["rows"] == 1
    place = tmp_path / "back.db"
    sqlite.restore(facts, streams, sqlite.Target(place), EVERYTHING, Context())
    with contextlib.closing(sqlite3.connect(place)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_missing_file_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no database at"):
        take(tmp_path / "gone.db")
    assert os.listdir(tmp_path) == []


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with pytest.raises(SourceError, match="0 bytes"):
        take(tmp_path / "empty.db")


def test_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is a folder"):
        take(tmp_path)


@pytest.mark.parametrize("content", [b"not a database, just text" * 100, os.urandom(8192)])
def test_other_and_encrypted_files_are_named_as_such(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.db").write_bytes(content)
    with pytest.raises(SourceError, match="not a SQLite database, or it is encrypted"):
        take(tmp_path / "x.db")


def test_a_damaged_database_is_an_error_that_names_the_source(rich: Path) -> None:
    content = bytearray(rich.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    rich.write_bytes(content)
    with pytest.raises(SourceError, match=f"{rich} is damaged"):
        take(rich)


def test_a_database_without_tables_is_captured_with_a_warning(tmp_path: Path) -> None:
    path = make(tmp_path / "bare.db", "PRAGMA user_version = 1; CREATE TABLE t(a); DROP TABLE t;")
    facts, _ = take(path)
    assert facts["warnings"] == ["the database has no tables"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_unreadable_file_is_an_error() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        path = make(folder / "secret.db", "CREATE TABLE t(a);")
        path.chmod(0o600)
        os.seteuid(65534)
        try:
            with pytest.raises(SourceError, match=r"cannot open .*secret\.db"):
                take(path)
        finally:
            os.seteuid(0)
    finally:
        shutil.rmtree(folder)


def test_a_writer_that_never_ends_gives_a_clear_error_after_the_wait(rich: Path) -> None:
    clock = FakeClock()
    with contextlib.closing(sqlite3.connect(rich, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SourceError, match=r"stayed locked .* 30 seconds"):
            take(rich, Context(clock=clock))
    assert clock.monotonic() >= 30


def test_a_writer_that_ends_is_waited_for(rich: Path) -> None:
    writer = sqlite3.connect(rich, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    writer.execute("DELETE FROM leads WHERE id = 1")

    class EndsSoon(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.monotonic() > 1 and writer.in_transaction:
                writer.execute("COMMIT")

    facts, _ = take(rich, Context(clock=EndsSoon()))
    writer.close()
    assert facts["tables"]["leads"]["rows"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_busy_writer_never_tears_the_copy(tmp_path: Path, mode: str) -> None:
    path = make(tmp_path / "busy.db", f"PRAGMA journal_mode={mode}; CREATE TABLE a(x); CREATE TABLE b(x);")
    program = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], timeout=60); i = 0\n"
        "while True:\n"
        " i += 1\n"
        " c.execute('INSERT INTO a VALUES (?)', (i,)); c.execute('INSERT INTO b VALUES (?)', (i,)); c.commit()\n"
        " print(i, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        drain = threading.Thread(target=lambda: all(writer.stdout), daemon=True)
        try:
            writer.stdout.readline()
            drain.start()
            for _ in range(10):
                facts, _ = take(path)
                assert facts["tables"]["a"] == facts["tables"]["b"]
        finally:
            writer.kill()
            drain.join()


def test_a_cancelled_capture_stops(rich: Path) -> None:
    with pytest.raises(Interrupted):
        take(rich, Context(cancelled=lambda: True))


def test_the_temporary_copy_goes_away(rich: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    take(rich, Context(work=work))
    assert os.listdir(work) == []
    assert os.listdir(rich.parent) == ["dev.db"]


def test_digests_do_not_depend_on_how_the_pages_lie(rich: Path) -> None:
    before, _ = take(rich)
    change(rich, "CREATE TABLE filler(x)", "INSERT INTO filler VALUES (randomblob(100000))", "DROP TABLE filler")
    with contextlib.closing(sqlite3.connect(rich, isolation_level=None)) as connection:
        connection.execute("PRAGMA page_size=8192")
        connection.execute("VACUUM")
    after, _ = take(rich)
    assert after["digest"] != before["digest"]
    assert after["tables"] == before["tables"]
    assert sqlite.compare(before, after) == [Finding("page_size", "is 8192; it was 4096 at backup time")]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1, 0", "1.0, 0"),
        ("1, 0", "'1', 0"),
        ("'a', 0", "X'61', 0"),
        ("NULL, 0", "'', 0"),
        ("0.1, 0", "0.10000000000000002, 0"),
        ("'a', 'bc'", "'ab', 'c'"),
        ("NULL, 1", "1, NULL"),
        ("CAST(X'ff' AS TEXT), 0", "CAST(X'fe' AS TEXT), 0"),
    ],
)
def test_values_that_differ_in_type_or_place_have_different_digests(tmp_path: Path, first: str, second: str) -> None:
    one = make(tmp_path / "1.db", f"CREATE TABLE t(a, b); INSERT INTO t VALUES ({first});")
    two = make(tmp_path / "2.db", f"CREATE TABLE t(a, b); INSERT INTO t VALUES ({second});")
    assert take(one)[0]["tables"]["t"]["digest"] != take(two)[0]["tables"]["t"]["digest"]


def test_the_digest_of_a_table_is_what_its_description_says(tmp_path: Path) -> None:
    path = make(tmp_path / "d.db", "CREATE TABLE t(a); INSERT INTO t VALUES (NULL), (-2), (0.5), ('hé'), (X'00');")
    types = bytes([0, 1, 2, 3, 4])
    numbers = struct.pack("<q", -2) + struct.pack("<d", 0.5) + struct.pack("<q", 3) + struct.pack("<q", 1)
    expected = blake3(b"".join(blake3(part).digest() for part in (types, numbers, "hé".encode() + b"\0")))
    assert take(path)[0]["tables"]["t"] == {"rows": 5, "digest": expected.hexdigest()}


def test_large_values_have_the_same_digest_when_read_in_pieces(rich: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = "(CAST(randomblob(3000) AS TEXT), randomblob(200000), 'short', 0.5), (NULL, X'00', 'x', 1)"
    change(rich, "CREATE TABLE large(name, photo, rowid, n)", f"INSERT INTO large VALUES {large}")
    before, _ = take(rich)
    opened = []
    original = tables._digest_large
    monkeypatch.setattr(tables, "_LARGE", 1000)
    monkeypatch.setattr(tables, "_PIECE", 700)
    monkeypatch.setattr(tables, "_digest_large", lambda *args: opened.append(args[1][:2]) or original(*args))
    after, _ = take(rich)
    assert {("large", "name"), ("large", "photo")} <= set(opened)
    assert after["tables"] == before["tables"]


VALUES = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(), st.binary(max_size=40)
)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(VALUES, VALUES), max_size=30), size=st.integers(1, 7))
def test_digests_do_not_depend_on_the_size_of_batches(rows: list, size: int) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection, pytest.MonkeyPatch.context() as patch:
        connection.execute("CREATE TABLE t(a, b)")
        with contextlib.suppress(UnicodeEncodeError):
            connection.executemany("INSERT INTO t VALUES (?, ?)", rows)
        whole = tables.digest_table(connection, "t")
        patch.setattr(tables, "_BATCH_ROWS", size)
        assert tables.digest_table(connection, "t") == whole


@settings(max_examples=200, deadline=None)
@given(value=VALUES)
def test_every_value_survives_as_sql_text(value: object) -> None:
    if isinstance(value, str):
        value = bytearray(value.encode("utf-8", "surrogatepass"))
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.text_factory = bytearray
        text = dump.literal(value)
        if isinstance(value, float):
            text = dump.misread_floats(connection, {value}).get(value, text)
        assert connection.execute(f"SELECT {text.decode()}").fetchone() == (value,)


def test_floats_that_sqlite_misreads_are_written_in_another_way(tmp_path: Path) -> None:
    numbers = random.Random(1)
    floats = [x for x in (struct.unpack("<d", numbers.randbytes(8))[0] for _ in range(5000)) if math.isfinite(x)]
    path = make(tmp_path / "f.db", "CREATE TABLE f(x)")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executemany("INSERT INTO f VALUES (?)", [(x,) for x in [*floats, 5e-324, 1.7976931348623157e308]])
        connection.commit()
    facts, streams = take(path)
    sqlite.restore(facts, streams, None, RestoreRequest(sql=tmp_path / "f.sql"), Context())
    now, _ = take(make(tmp_path / "new.db", (tmp_path / "f.sql").read_text()))
    assert now["tables"] == facts["tables"]


def test_a_restore_never_overwrites(rich: Path, tmp_path: Path) -> None:
    facts, streams = take(rich)
    place = tmp_path / "there.db"
    place.write_bytes(b"precious")
    with pytest.raises(TargetNotEmpty):
        sqlite.restore(facts, streams, sqlite.Target(place), EVERYTHING, Context())
    assert place.read_bytes() == b"precious"


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_a_stale_journal_beside_the_target_is_refused(rich: Path, tmp_path: Path, suffix: str) -> None:
    facts, streams = take(rich)
    (tmp_path / f"back.db{suffix}").write_bytes(b"stale")
    with pytest.raises(TargetNotEmpty):
        sqlite.restore(facts, streams, sqlite.Target(tmp_path / "back.db"), EVERYTHING, Context())


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_altered_bytes_are_found_and_nothing_is_left_behind(rich: Path, tmp_path: Path, damage: str) -> None:
    facts, streams = take(rich)
    if damage == "flip":
        streams.data["database"][5000] ^= 1
    else:
        del streams.data["database"][-4096:]
    place = tmp_path / "out" / "back.db"
    with pytest.raises(Damaged):
        sqlite.restore(facts, streams, sqlite.Target(place), EVERYTHING, Context())
    assert os.listdir(place.parent) == []
    with pytest.raises(Damaged):
        sqlite.export(facts, streams, place.parent, Context())
    assert os.listdir(place.parent) == []


def test_one_table_comes_back_with_its_indexes_and_triggers(rich: Path, tmp_path: Path) -> None:
    facts, streams = take(rich)
    place = tmp_path / "leads.db"
    report = sqlite.restore(facts, streams, sqlite.Target(place), RestoreRequest(tables=("leads",)), Context())
    assert report.tables == {"leads": 6}
    assert [text for text in report.warnings if "users" in text]
    now, _ = take(place)
    assert now["tables"]["leads"] == facts["tables"]["leads"]
    assert now["tables"].keys() == {"leads"}
    assert {"leads_owner", "leads_gone"} <= now["objects"].keys()
    assert "good_leads" not in now["objects"]
    with contextlib.closing(sqlite3.connect(place)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT upper_name FROM leads WHERE id = 2").fetchone() == ("IT'S",)


def test_a_virtual_table_comes_back_with_its_content(rich: Path, tmp_path: Path) -> None:
    facts, streams = take(rich)
    place = tmp_path / "docs.db"
    sqlite.restore(facts, streams, sqlite.Target(place), RestoreRequest(tables=("docs",)), Context())
    with contextlib.closing(sqlite3.connect(place)) as connection:
        assert connection.execute("SELECT count(*) FROM docs WHERE docs MATCH 'fox'").fetchone() == (1,)
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'leads'").fetchall() == []


def test_counters_come_back_with_their_table_only(rich: Path, tmp_path: Path) -> None:
    facts, streams = take(rich)
    place = tmp_path / "users.db"
    sqlite.restore(facts, streams, sqlite.Target(place), RestoreRequest(tables=("users",)), Context())
    with contextlib.closing(sqlite3.connect(place)) as connection:
        connection.execute("DELETE FROM users")
        connection.execute("INSERT INTO users(email) VALUES ('c')")
        assert connection.execute("SELECT id FROM users").fetchone() == (3,)


def test_chosen_tables_of_a_wal_database_come_back_in_wal_mode(tmp_path: Path) -> None:
    path = make(tmp_path / "w.db", "PRAGMA journal_mode=WAL; CREATE TABLE t(a); CREATE TABLE u(a);")
    facts, streams = take(path)
    place = tmp_path / "out" / "t.db"
    sqlite.restore(facts, streams, sqlite.Target(place), RestoreRequest(tables=("t",)), Context())
    assert os.listdir(place.parent) == ["t.db"]
    assert place.read_bytes()[18] == 2


def test_an_unknown_table_is_a_usage_error_with_near_names(rich: Path, tmp_path: Path) -> None:
    facts, streams = take(rich)
    with pytest.raises(UsageError, match="no table 'lead'") as caught:
        sqlite.restore(facts, streams, sqlite.Target(tmp_path / "x.db"), RestoreRequest(tables=("lead",)), Context())
    assert "leads" in caught.value.hint
    with pytest.raises(UsageError):
        sqlite.restore(facts, streams, sqlite.Target(tmp_path / "x.db"), RestoreRequest(paths=("a",)), Context())
    assert not (tmp_path / "x.db").exists()


@pytest.mark.skipif(not shutil.which("sqlite3"), reason="needs the sqlite3 program")
@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
def test_sql_text_makes_an_equal_database(tmp_path: Path, encoding: str) -> None:
    script = RICH if encoding == "UTF-8" else RICH.replace("(CAST(X'fffe61' AS TEXT)), ", "")
    path = make(tmp_path / "dev.db", f"PRAGMA encoding='{encoding}';" + script)
    facts, streams = take(path)
    text = tmp_path / "dev.sql"
    report = sqlite.restore(facts, streams, None, RestoreRequest(sql=text), Context())
    assert report.tables == {name: table["rows"] for name, table in facts["tables"].items()}
    with text.open("rb") as file:
        subprocess.run(["sqlite3", "-bail", tmp_path / "new.db"], stdin=file, check=True)
    now, _ = take(tmp_path / "new.db")
    assert sqlite.compare(facts, now) == []
    assert sqlite.examine(sqlite.Target(tmp_path / "new.db"), facts, Context()) == []


def test_sql_text_of_one_table_has_nothing_of_the_others(rich: Path, tmp_path: Path) -> None:
    facts, streams = take(rich)
    text = tmp_path / "pairs.sql"
    sqlite.restore(facts, streams, None, RestoreRequest(tables=("pairs",), sql=text), Context())
    make(tmp_path / "new.db", text.read_text())
    now, _ = take(tmp_path / "new.db")
    assert now["tables"] == {"pairs": facts["tables"]["pairs"]}
    assert now["objects"].keys() >= {"pairs", "pairs_b"}
    with pytest.raises(TargetNotEmpty):
        sqlite.restore(facts, streams, None, RestoreRequest(tables=("pairs",), sql=text), Context())


def restored(rich: Path, place: Path) -> tuple[dict, sqlite.Target]:
    facts, streams = take(rich)
    sqlite.restore(facts, streams, sqlite.Target(place), EVERYTHING, Context())
    return facts, sqlite.Target(place)


def test_a_tampered_row_is_found_by_comparing_digests(rich: Path, tmp_path: Path) -> None:
    facts, target = restored(rich, tmp_path / "back.db")
    change(target.path, "UPDATE leads SET score = 0.10000000000000002 WHERE id = 1")
    assert sqlite.examine(target, facts, Context()) == []
    assert [f.what for f in sqlite.compare(facts, take(target.path)[0])] == ["leads"]


def test_a_lost_row_is_found_by_counting(rich: Path, tmp_path: Path) -> None:
    facts, target = restored(rich, tmp_path / "back.db")
    change(target.path, "DELETE FROM leads WHERE id = 6")
    assert sqlite.count_rows(target, facts)["leads"] == 5
    assert Finding("leads", "has 5 rows; 6 were backed up") in sqlite.compare(facts, take(target.path)[0])


def test_a_dropped_index_is_found_by_examining(rich: Path, tmp_path: Path) -> None:
    facts, target = restored(rich, tmp_path / "back.db")
    change(target.path, "DROP INDEX leads_owner")
    expected = [Finding("leads_owner", "the index of leads is missing")]
    assert sqlite.examine(target, facts, Context()) == expected
    assert sqlite.compare(facts, take(target.path)[0]) == expected


def test_a_dropped_table_is_found(rich: Path, tmp_path: Path) -> None:
    facts, target = restored(rich, tmp_path / "back.db")
    change(target.path, "DROP TABLE untouched")
    assert "untouched" not in sqlite.count_rows(target, facts)
    assert sqlite.compare(facts, take(target.path)[0]) == [Finding("untouched", "the table is missing")]


def test_an_index_that_disagrees_with_its_table_is_found_by_examining(rich: Path, tmp_path: Path) -> None:
    facts, target = restored(rich, tmp_path / "back.db")
    change(target.path, "PRAGMA writable_schema=ON", "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM "
           "sqlite_master WHERE name = 'pairs_b') WHERE name = 'leads_owner'")  # fmt: skip
    assert any("integrity_check" in finding.problem for finding in sqlite.examine(target, facts, Context()))


def test_rows_without_parents_are_kept_but_new_ones_are_found(rich: Path, tmp_path: Path) -> None:
    change(rich, "UPDATE leads SET owner = 99 WHERE id = 1")
    facts, target = restored(rich, tmp_path / "back.db")
    assert facts["foreign_keys"] == {"leads -> users": 1}
    assert facts["warnings"] == ["foreign key leads -> users: 1 rows have no parent; kept as it is"]
    assert sqlite.examine(target, facts, Context()) == []
    change(target.path, "UPDATE leads SET owner = 98 WHERE id = 2")
    assert [finding.what for finding in sqlite.examine(target, facts, Context())] == ["leads -> users"]


def test_a_restored_file_that_does_not_open_is_a_finding(rich: Path, tmp_path: Path) -> None:
    facts, target = restored(rich, tmp_path / "back.db")
    target.path.write_bytes(b"x" * 5000)
    assert len(sqlite.examine(target, facts, Context())) == 1


def test_checks_of_the_policy_read_and_never_write(rich: Path, tmp_path: Path) -> None:
    _, target = restored(rich, tmp_path / "back.db")
    assert sqlite.query(target, "SELECT count(*) FROM leads") == 6
    assert sqlite.query(target, "SELECT 1 WHERE 0") is None
    for sql in ("DELETE FROM leads", "SELECT nonsense", f"ATTACH '{tmp_path}/other.db' AS o", "SELECT 1; SELECT 2"):
        with pytest.raises(SourceError, match="the query failed"):
            sqlite.query(target, sql)
    assert not (tmp_path / "other.db").exists()
    assert sqlite.query(target, "SELECT count(*) FROM leads") == 6


def test_the_export_is_the_database_for_any_gunzip(rich: Path, tmp_path: Path) -> None:
    facts, streams = take(rich)
    (tmp_path / "one").mkdir()
    exported = sqlite.export(facts, streams, tmp_path / "one", Context())
    assert exported.path.name == "database.db.gz"
    assert gzip.decompress(exported.path.read_bytes()) == bytes(streams.data["database"])
    assert exported.sha256 == hashlib.sha256(exported.path.read_bytes()).hexdigest()
    assert exported.size == exported.path.stat().st_size
    again = sqlite.export(facts, streams, tmp_path / "two", Context())
    assert again.sha256 == exported.sha256
    with pytest.raises(TargetNotEmpty):
        sqlite.export(facts, streams, tmp_path / "two", Context())


def test_tables_with_collations_and_functions_of_the_application_are_captured(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.create_collation("ours", lambda a, b: (a < b) - (a > b))
        connection.create_function("slug", 1, str.lower, deterministic=True)
        connection.executescript(
            "CREATE TABLE t(a TEXT COLLATE ours PRIMARY KEY, b AS (slug(a)) STORED) WITHOUT ROWID;"
            "CREATE TABLE u(a TEXT COLLATE ours); CREATE INDEX ui ON u(a); CREATE INDEX us ON u(slug(a));"
            "INSERT INTO t(a) VALUES ('x'), ('b'); INSERT INTO u VALUES ('q');"
        )
    facts, target = restored(path, tmp_path / "back.db")
    assert {name: table["rows"] for name, table in facts["tables"].items()} == {"t": 2, "u": 1}
    context = Context()
    assert sqlite.examine(target, facts, context) == []
    assert "indexes were not compared" in context.progress.warnings[0]
    assert sqlite.count_rows(target, facts) == {"t": 2, "u": 1}
    streams = take(path)[1]
    chosen = RestoreRequest(tables=("t",))
    with pytest.raises(SourceError, match="only the application has"):
        sqlite.restore(facts, streams, sqlite.Target(tmp_path / "t.db"), chosen, Context())
    sqlite.restore(facts, streams, None, RestoreRequest(tables=("t",), sql=tmp_path / "t.sql"), Context())
    assert """INSERT INTO "t"("a") VALUES('x');""" in (tmp_path / "t.sql").read_text()


def test_names_of_files_with_special_characters_work(tmp_path: Path) -> None:
    path = make(tmp_path / os.fsdecode(b"we?ird #%20 \xff.db"), "CREATE TABLE t(a); INSERT INTO t VALUES (1);")
    facts, _ = take(path)
    assert facts["tables"]["t"]["rows"] == 1
