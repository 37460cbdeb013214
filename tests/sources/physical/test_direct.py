"""Base backups from the files of a server on this host: the same as the server would send, and unchanged files are not read."""

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import psycopg
import pytest

from keepwell.core.errors import Interrupted, SourceError
from keepwell.core.progress import Silent
from keepwell.core.streams import Context
from keepwell.core.wal import parse_lsn, segment_name
from keepwell.sources.base import RestoreRequest
from keepwell.sources.physical import Target, direct, restore
from keepwell.sources.physical.listing import listing
from support.captured import capture, differences, files_in, files_of
from support.majors import EVERY, EVERY_NAMES
from support.physical import base_backup
from support.physical_load import (
    LOGGING,
    LoggingServer,
    await_end_of_recovery,
    fill,
    give_to_server,
    load,
    logging_server,
    open_folder,
    require_balanced,
)

pytestmark = pytest.mark.slow


def ask(server, sql, database="postgres"):
    with psycopg.connect(server.url(database).reveal(), autocommit=True) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module", params=EVERY, ids=EVERY_NAMES)
def server(request):
    with open_folder() as folder, logging_server(request.param, folder / "server") as found:
        (folder / "fast").mkdir()
        give_to_server(folder / "fast")
        ask(found, f"CREATE TABLESPACE fast LOCATION '{folder / 'fast'}'")
        ask(found, "CREATE TABLE elsewhere TABLESPACE fast AS SELECT n FROM generate_series(1, 5000) n")
        ask(
            found,
            "CREATE TABLE notes AS SELECT n AS id, repeat(md5(n::text), 8) AS text FROM generate_series(1, 9000) n",
        )
        ask(found, "CREATE UNLOGGED TABLE scratch AS SELECT n FROM generate_series(1, 5000) n")
        ask(found, "VACUUM")
        yield found


@pytest.fixture
def folder():
    with open_folder() as found:
        yield found


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once."""
    monkeypatch.setattr(direct, "_SETTLED", -(10**12))


def test_the_files_are_those_that_pg_basebackup_takes(server, folder):
    capture(server, read_from="files")
    ask(server, "CHECKPOINT")
    facts, streams = capture(server, read_from="files")
    places = server.data.parent.parent / "fast", folder / "fast"
    theirs = files_in(base_backup(server, folder / "theirs", f"--tablespace-mapping={places[0]}={places[1]}"))
    ours = files_of(streams)
    assert differences(ours, theirs) == []
    assert any(path.startswith("pg_tblspc/") and kind == "file" for path, (kind, _, _) in ours.items())
    assert facts["method"].startswith("files: 0 of ")
    label = ours["backup_label"][2].decode()
    assert f"START WAL LOCATION: {facts['wal']['start']} " in label
    start, stop = parse_lsn(facts["wal"]["start"]), parse_lsn(facts["wal"]["stop"])
    for position in range(start - start % (16 << 20), stop, 16 << 20):
        assert len(ours[f"pg_wal/{segment_name(facts['wal']['timeline'], position)}"][2]) == 16 << 20
    assert ask(server, "SELECT slot_name FROM pg_replication_slots") == []


def test_what_was_not_written_is_not_read_again_and_what_was_written_is(server, folder, settled):
    cache = folder / "cache"
    first, streams = capture(server, read_from="files", cache=cache)
    ask(server, "UPDATE notes SET text = 'other' WHERE id = 4711")
    ask(server, "CHECKPOINT")
    facts, again = capture(server, read_from="files", cache=cache, after=streams)
    unchanged, relations = map(int, facts["method"].removeprefix("files: ").split(" had")[0].split(" of "))
    assert relations - 20 < unchanged < relations
    (written,) = ask(server, "SELECT pg_relation_filepath('notes')")[0]
    assert files_of(again)[written][2] == (server.data / written).read_bytes() != files_of(streams)[written][2]
    # Whole, and as good as one that read everything.
    whole = files_of(capture(server, read_from="files")[1])
    assert differences(files_of(again), whole) == []
    report = restore(
        facts, again, Target(folder / "data"), RestoreRequest(tablespaces=_mapped(server, folder)), Context()
    )
    assert report.files == facts["files"] == first["files"]


def _mapped(server, folder):
    return ((str(server.data.parent.parent / "fast"), str(folder / "restored-fast")),)


def test_a_file_written_just_before_it_was_looked_at_is_read_again(server, folder):
    cache = folder / "cache"
    ask(server, "UPDATE notes SET text = text || '.' WHERE id = 1")
    ask(server, "CHECKPOINT")
    _, streams = capture(server, read_from="files", cache=cache)
    facts, _ = capture(server, read_from="files", cache=cache, after=streams)
    unchanged, relations = map(int, facts["method"].removeprefix("files: ").split(" had")[0].split(" of "))
    assert unchanged < relations


def test_a_segment_that_the_server_used_again_while_it_was_read_is_an_error(server, monkeypatch):
    copy = direct._copy
    others = []

    def slowly(handle, size, files):
        copy(handle, size, files)
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.parent.name == "pg_wal" and not others:  # another file has the name now
            others.append(path)
            shutil.copy2(path, path.with_suffix(".new"))
            give_to_server(path.with_suffix(".new"))
            path.with_suffix(".new").replace(path)

    monkeypatch.setattr(direct, "_copy", slowly)
    with pytest.raises(SourceError, match="no longer has the log that the backup needs"):
        capture(server, read_from="files")
    assert others
    capture(server, read_from="files")


def test_after_a_restart_of_the_server_everything_is_read(folder, settled):
    with logging_server(15, folder / "server") as server:
        cache = folder / "cache"
        _, streams = capture(server, read_from="files", cache=cache)
        server.stop()
        server.start()
        facts, _ = capture(server, read_from="files", cache=cache, after=streams)
        assert facts["method"].startswith("files: 0 of ")


def test_backups_under_load_are_consistent(folder, settled):
    with logging_server(15, folder / "server") as server:
        fill(server)
        streams = None
        with load(server):
            for _ in range(3):
                facts, streams = capture(server, read_from="files", cache=folder / "cache", after=streams)
        report = restore(facts, streams, Target(folder / "data"), RestoreRequest(), Context())
        assert report.files == facts["files"]
    with LoggingServer(server.programs, folder, settings=LOGGING) as again:
        await_end_of_recovery(again)
        assert require_balanced(again.url().reveal()).transactions > 0


def test_a_damaged_page_is_named_and_a_torn_one_is_none(folder):
    with logging_server(15, folder / "server") as server:
        ask(server, "CREATE TABLE notes AS SELECT n, repeat('x', 900) AS t FROM generate_series(1, 400) n")
        (path,) = ask(server, "SELECT pg_relation_filepath('notes')")[0]
        server.stop()
        enable = [server.programs.path("pg_checksums"), "--enable", "-D", str(server.data)]
        subprocess.run(enable, check=True, capture_output=True, cwd="/", **server._identity())
        with (server.data / path).open("r+b") as file:
            file.seek(7 * 8192 + 4000)
            file.write(b"rot")
        server.start()
        with pytest.raises(SourceError, match="damaged") as caught:
            capture(server, read_from="files")
        assert f"{path} block 7" in caught.value.message
        facts, _ = capture(server, read_from="files", on_damaged_page="keep")
        assert facts["damaged_pages"] == [{"path": path, "block": 7}]


def test_files_are_only_asked_for_where_they_can_be_read(server, folder, monkeypatch):
    ask(server, "DO $$ BEGIN CREATE ROLE sender LOGIN REPLICATION; EXCEPTION WHEN duplicate_object THEN END $$")
    ask(server, "GRANT pg_read_all_settings TO sender")
    url = type(server.url())(server.url().reveal().replace("user=postgres", "user=sender"))
    with pytest.raises(SourceError, match="may not execute pg_backup_start"):
        capture(server, url=url, read_from="files")
    assert capture(server, url=url, read_from="auto")[0]["method"].startswith("full: ")
    # Another cluster in the same place, as behind a tunnel or in a container.
    monkeypatch.setattr(direct.Path, "read_text", lambda *_, **__: "1\n/data\n12345\n")
    with pytest.raises(SourceError, match="not on this machine"):
        capture(server, read_from="files")


def test_an_interrupted_backup_leaves_the_server_as_it_was(server, folder):
    asked = threading.Event()

    class Stopping(Silent):
        def advance(self, *_):
            asked.set()

    with pytest.raises(Interrupted):
        capture(server, read_from="files", context=Context(progress=Stopping(), cancelled=asked.is_set))
    assert ask(server, "SELECT slot_name FROM pg_replication_slots") == []
    assert json.dumps(capture(server, read_from="files")[0])


def test_what_a_server_makes_anew_stays_out(server):
    (path,) = ask(server, "SELECT pg_relation_filepath('scratch')")[0]
    assert (server.data / path).exists()
    extra = [
        "base/pgsql_tmp/pgsql_tmp12.0",
        "base/5/t3_16999",
        "global/pg_internal.init.77",
        "pg_stat_tmp/x",
        "pg_wal/y",
    ]
    for name in extra:
        (server.data / name).parent.mkdir(exist_ok=True)
        (server.data / name).write_bytes(b"x")
    try:
        names = {item.path for item in listing(server.data).items}
    finally:
        for name in extra:
            os.unlink(server.data / name)
    assert not names & {*extra, path, "postmaster.pid", "postmaster.opts", "global/pg_control", "base/pgsql_tmp"}
    assert {f"{path}_init", "pg_stat_tmp", "pg_wal", "pg_wal/archive_status", "PG_VERSION", "base/5"} <= names


def test_a_server_that_can_tell_what_changed_goes_on_from_what_was_read(folder):
    settings = {"summarize_wal": "on", "autovacuum": "off"}
    with logging_server(18, folder / "server", settings=settings) as server:
        ask(
            server,
            "CREATE TABLE notes AS SELECT n AS id, repeat(md5(n::text), 8) AS text FROM generate_series(1, 9000) n",
        )
        ask(server, "CHECKPOINT")
        cache = folder / "cache"
        facts, streams = capture(server, read_from="auto", cache=cache)
        assert facts["method"].startswith("files: 0 of ")
        assert facts["method"].endswith("; this machine knows of no earlier backup of this cluster")
        ask(server, "UPDATE notes SET text = 'other' WHERE id % 1000 = 0")
        ask(server, "CREATE TABLE more AS SELECT n FROM generate_series(1, 1000) n")
        ask(server, "CHECKPOINT")
        facts, again = capture(server, read_from="auto", cache=cache, after=streams)
        assert facts["method"] == "incremental, from the files"
        assert differences(files_of(again), files_of(capture(server)[1])) == []
