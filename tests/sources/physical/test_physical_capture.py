"""Base backups of real servers: what is taken is what the server has."""

import json
import shutil
import subprocess
from itertools import count

import psycopg
import pytest

from keepwell.core.errors import Interrupted, SourceError
from keepwell.core.secrets import Secret
from keepwell.core.streams import Context, MemoryStreams
from keepwell.core.wal import parse_lsn, segment_name
from keepwell.sources.base import RestoreRequest
from keepwell.sources.physical import Spec, Target, basebackup, restore
from keepwell.sources.physical.entries import CONTENT, PAGES, STREAM
from keepwell.sources.physical.replication import Replication, ServerError
from support.captured import capture, differences, files_in, files_of
from support.majors import EVERY, EVERY_NAMES
from support.physical import base_backup
from support.physical_load import LOGGING, LoggingServer, give_to_server, logging_server, open_folder

pytestmark = pytest.mark.slow

VERSIONS = pytest.mark.parametrize("major", EVERY, ids=EVERY_NAMES)


def ask(server, sql, database="postgres"):
    with psycopg.connect(server.url(database).reveal(), autocommit=True) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module", params=EVERY, ids=EVERY_NAMES)
def server(request):
    # A folder of its own each time: where the tests are shared out between processes, one may set this up twice.
    with open_folder() as folder, logging_server(request.param, folder / "server") as found:
        ask(
            found,
            "CREATE TABLE notes AS SELECT n AS id, repeat(md5(n::text), 8) AS text FROM generate_series(1, 9000) n",
        )
        ask(found, "CREATE INDEX ON notes (id)")
        ask(found, "CREATE DATABASE second")
        ask(found, "VACUUM notes")
        yield found


@pytest.fixture
def folder():
    with open_folder() as found:
        yield found


def started(server, folder, **settings):
    """A server in `folder/data`."""
    return LoggingServer(server.programs, folder, settings={**LOGGING, **settings})


def settled(server):
    """What a backup's own questions change (hint bits) has been changed."""
    capture(server)
    ask(server, "CHECKPOINT")


def test_a_backup_has_the_files_that_pg_basebackup_takes(server, folder):
    settled(server)
    facts, streams = capture(server)
    theirs = files_in(base_backup(server, folder / "theirs"))
    ours = files_of(streams)
    assert differences(ours, theirs) == []
    assert facts["streams"] == streams.names() == [PAGES, CONTENT, STREAM]
    assert facts["files"] == sum(kind == "file" for kind, _, _ in ours.values())
    assert facts["bytes"] == sum(len(data) for kind, _, data in ours.values() if kind == "file")
    assert len(streams.data[PAGES]) % 8192 == 0
    assert len(streams.data[PAGES]) > 0.9 * (facts["bytes"] - len(ours) - (48 << 20))
    for left_out in ("backup_manifest", "postmaster.pid", "tablespace_map"):
        assert left_out not in ours
    label = ours["backup_label"][2].decode()
    assert "LABEL: keepwell\n" in label
    assert f"START WAL LOCATION: {facts['wal']['start']} " in label
    assert "INCREMENTAL" not in label


def test_a_backup_says_what_it_is_of(server):
    ((system, timeline, version),) = ask(
        server,
        "SELECT system_identifier::text, timeline_id, current_setting('server_version_num')::int "
        "FROM pg_control_system(), pg_control_checkpoint()",
    )
    facts, streams = capture(server)
    json.dumps(facts)
    assert (facts["type"], facts["server_version"], facts["block_size"]) == ("physical", version, 8192)
    assert facts["version"].startswith(str(version // 10000))
    assert {"postgres", "second", "template1"} <= set(facts["databases"])
    assert facts["method"].startswith("full: ")
    assert (facts["damaged_pages"], facts["warnings"], facts["tablespaces"]) == ([], [], {})
    wal = facts["wal"]
    assert (wal["system"], wal["timeline"], wal["segment_size"], wal["standby"]) == (system, timeline, 16 << 20, False)
    # The log that makes it consistent is in it, so that it can be started with nothing else.
    start, stop = parse_lsn(wal["start"]), parse_lsn(wal["stop"])
    assert start < stop
    files = files_of(streams)
    for position in range(start - start % (16 << 20), stop, 16 << 20):
        assert len(files[f"pg_wal/{segment_name(timeline, position)}"][2]) == 16 << 20
    assert facts["settings"]["max_connections"] == "40"


def test_no_slot_is_left_behind(server):
    capture(server)
    assert ask(server, "SELECT slot_name FROM pg_replication_slots") == []


def test_a_backup_comes_back_with_its_tables(server, folder):
    facts, streams = capture(server)
    report = restore(facts, streams, Target(folder / "data"), RestoreRequest(), Context())
    assert report.files == facts["files"]
    with started(server, folder) as again:
        assert ask(again, "SELECT count(*), sum(id) FROM notes") == ask(server, "SELECT count(*), sum(id) FROM notes")


@VERSIONS
def test_tablespaces_are_archives_of_their_own_wherever_they_lie(major, folder):
    # A link in a tar stream holds 100 bytes at most.
    places = [folder / "fast", folder / ("long" * 20) / ("er" * 30)]
    inside = {"allow_in_place_tablespaces": "on"} if major >= 16 else {}
    with logging_server(major, folder / "s", settings=inside) as server:
        for n, place in enumerate(places):
            place.mkdir(parents=True)
            give_to_server(place)
            ask(server, f"CREATE TABLESPACE t{n} LOCATION '{place}'")
            ask(server, f"CREATE TABLE in_{n} TABLESPACE t{n} AS SELECT generate_series(1, 4000) AS n")
        ask(server, "CREATE DATABASE elsewhere TABLESPACE t1")
        if inside:
            ask(server, "CREATE TABLESPACE inside LOCATION ''")
        ask(
            server,
            f"CREATE TABLE in_place {'TABLESPACE inside' if inside else ''} AS SELECT generate_series(1, 1000) n",
        )
        settled(server)
        facts, streams = capture(server)
        ours, theirs = files_of(streams), files_in(server.data)
        for path in [path for path in theirs if "postgresql.auto.conf" in path or path.startswith("pg_stat/")]:
            ours.pop(path, None)
            theirs.pop(path)
        assert differences(ours, theirs) == []
        links = {path: target for path, (kind, _, target) in ours.items() if kind == "link"}
        assert set(links.values()) == {str(place) for place in places}
        assert facts["tablespaces"] == {path.removeprefix("pg_tblspc/"): {"path": t} for path, t in links.items()}
        new = tuple((str(place), str(folder / f"new-{n}")) for n, place in enumerate(places))
        restore(facts, streams, Target(folder / "r" / "data"), RestoreRequest(tablespaces=new), Context())
    with started(server, folder / "r", **inside) as again:
        for table, rows in (("in_0", 4000), ("in_1", 4000), ("in_place", 1000)):
            assert ask(again, f"SELECT count(*) FROM {table}") == [(rows,)]
        assert ask(again, "SELECT 1", "elsewhere") == [(1,)]


def test_tablespaces_that_the_server_leaves_out_are_refused(folder):
    with logging_server(15, folder / "s", settings={"allow_in_place_tablespaces": "on"}) as server:
        ask(server, "CREATE TABLESPACE inside LOCATION ''")
        with pytest.raises(SourceError, match=r"inside its data directory \(inside\)"):
            capture(server)


def test_segments_of_another_size_and_a_log_that_lies_elsewhere(folder):
    context = logging_server(15, folder / "s", segment_size=1 << 20)
    with context as server:
        server.stop()
        elsewhere = folder / "log"
        shutil.move(server.data / "pg_wal", elsewhere)
        (server.data / "pg_wal").symlink_to(elsewhere)
        server.start()
        ask(server, "CREATE TABLE notes AS SELECT generate_series(1, 20000) AS id")
        facts, streams = capture(server)
        files = files_of(streams)
        assert facts["wal"]["segment_size"] == 1 << 20
        assert files["pg_wal"][0] == "dir"
        start = parse_lsn(facts["wal"]["start"])
        assert len(files[f"pg_wal/{segment_name(1, start, 1 << 20)}"][2]) == 1 << 20
        restore(facts, streams, Target(folder / "r" / "data"), RestoreRequest(), Context())
    with started(server, folder / "r") as again:
        assert ask(again, "SELECT count(*) FROM notes") == [(20000,)]


def test_a_standby_can_be_the_source(folder):
    with logging_server(15, folder / "first") as primary:
        ask(primary, "CREATE TABLE notes AS SELECT generate_series(1, 20000) AS id")
        base_backup(primary, folder / "standby" / "data", "-R")
        (folder / "standby").chmod(0o755)
        for path in [folder / "standby", *(folder / "standby").rglob("*")]:
            give_to_server(path)
        standby = LoggingServer(primary.programs, folder / "standby", settings={"hot_standby": "on", **LOGGING})
        with standby:
            ask(primary, "INSERT INTO notes SELECT generate_series(1, 100)")
            ((position,),) = ask(primary, "SELECT pg_current_wal_insert_lsn()::text")
            _until(standby, f"SELECT pg_last_wal_replay_lsn() >= '{position}'")
            facts, streams = capture(standby)
            assert facts["wal"]["standby"] is True
            assert "BACKUP FROM: standby" in files_of(streams)["backup_label"][2].decode()
            restore(facts, streams, Target(folder / "r" / "data"), RestoreRequest(), Context())
    (folder / "r" / "data" / "standby.signal").unlink(missing_ok=True)
    with started(primary, folder / "r") as again:
        assert ask(again, "SELECT count(*) FROM notes") == [(20100,)]


def _until(server, sql):
    while ask(server, sql) != [(True,)]:
        pass


# Damage


def spoil(server, table, blocks):
    """Turns a bit in these pages of a table, on the disk; the path of its file."""
    ((path,),) = ask(server, f"SELECT pg_relation_filepath('{table}')")
    server.stop()
    with (server.data / path).open("r+b") as file:
        for block in blocks:
            file.seek(block * 8192 + 4000)
            byte = file.read(1)[0]
            file.seek(block * 8192 + 4000)
            file.write(bytes([byte ^ 1]))
    server.start()
    return path


@pytest.fixture(scope="module", params=EVERY, ids=EVERY_NAMES)
def damaged(request):
    """A server with ten damaged pages in one table and one in another."""
    settings = {"summarize_wal": "on"} if request.param >= 17 else {}
    with open_folder() as folder, logging_server(request.param, folder / "damaged", settings=settings) as found:
        if request.param < 18:
            found.stop()
            enable = [found.programs.path("pg_checksums"), "--enable", "-D", str(found.data)]
            subprocess.run(enable, check=True, capture_output=True, cwd="/", **found._identity())
            found.start()
        for name in ("many", "few", "whole"):
            ask(found, f"CREATE TABLE {name} AS SELECT n, repeat('x', 900) AS t FROM generate_series(1, 400) n")
        ask(found, "CHECKPOINT")
        many = spoil(found, "many", range(3, 23, 2))
        few = spoil(found, "few", [7])
        found.pages = [*((many, block) for block in range(3, 23, 2)), (few, 7)]
        yield found


def test_a_damaged_page_fails_the_backup_and_is_named(damaged):
    with pytest.raises(SourceError) as caught:
        capture(damaged)
    path, block = damaged.pages[-1]
    assert f"{path} block {block}" in caught.value.message
    assert "on_damaged_page" in caught.value.hint


def test_damaged_pages_that_are_kept_are_all_named(damaged, folder):
    facts, streams = capture(damaged, on_damaged_page="keep", cache=folder)
    assert sorted((page["path"], page["block"]) for page in facts["damaged_pages"]) == sorted(damaged.pages)
    assert all(any(f"{path} block {block}," in text for text in facts["warnings"]) for path, block in damaged.pages)
    path, _ = damaged.pages[0]
    assert files_of(streams)[path][2] == (damaged.data / path).read_bytes()
    if facts["server_version"] < 170000:
        return
    # What the server does not send again is as damaged as it was.
    again, _ = capture(damaged, on_damaged_page="keep", cache=folder, after=streams)
    assert again["method"] == "incremental"
    assert again["damaged_pages"] == facts["damaged_pages"]
    with pytest.raises(SourceError, match="damaged"):
        capture(damaged, cache=folder, after=streams)


# Refusals


def role(server, name, options):
    ask(server, f"DO $$ BEGIN CREATE ROLE {name} LOGIN {options}; EXCEPTION WHEN duplicate_object THEN END $$")
    return Secret(server.url().reveal().replace("user=postgres", f"user={name}"))


def test_a_role_with_the_least_rights_can_back_up(server):
    url = role(server, "keeper", "REPLICATION")
    ask(server, "GRANT pg_read_all_settings TO keeper")
    facts, _ = capture(server, url=url)
    assert facts["files"] > 900


def test_a_role_that_may_not_replicate_is_told_what_it_needs(server):
    with pytest.raises(SourceError, match="replication connection") as caught:
        capture(server, url=role(server, "nobody_much", ""))
    assert "REPLICATION" in caught.value.hint


def test_a_password_shows_in_no_error():
    url = Secret("postgresql://me:sesame-open@127.0.0.1:1/postgres")
    with pytest.raises(SourceError) as caught:
        Replication.connect(url)
    assert "sesame" not in f"{caught.value.message} {caught.value.hint} {caught.value!r}"


def test_an_interrupted_backup_ends_at_once_and_leaves_nothing(server):
    asked = count()
    sink = MemoryStreams()
    with pytest.raises(Interrupted):
        capture(server, context=Context(cancelled=lambda: next(asked) > 40))
    _until(server, "SELECT count(*) = 0 FROM pg_stat_replication")
    assert ask(server, "SELECT slot_name FROM pg_replication_slots") == []
    assert sink.names() == []


def test_a_command_that_the_server_does_not_know_is_told_by_its_own_message(server):
    with Replication.connect(server.url()) as link:
        with pytest.raises(ServerError) as caught:
            link.query("SHOW no_such_setting")
        assert caught.value.state == "42704"
        assert link.show("wal_segment_size") == "16MB"
        assert link.identify().timeline == 1


@pytest.mark.parametrize(
    ("version", "checkpoint", "expected"),
    [
        (140012, "fast", "BASE_BACKUP LABEL 'keepwell' PROGRESS FAST WAL NOWAIT TABLESPACE_MAP MANIFEST 'no'"),
        (140012, "spread", "BASE_BACKUP LABEL 'keepwell' PROGRESS WAL NOWAIT TABLESPACE_MAP MANIFEST 'no'"),
        (
            180000,
            "spread",
            "BASE_BACKUP (LABEL 'keepwell', PROGRESS, CHECKPOINT 'spread', WAL, WAIT false, TABLESPACE_MAP, MANIFEST 'no')",
        ),
    ],
    ids=["14-fast", "14-spread", "18-spread"],
)
def test_the_checkpoint_is_made_as_the_policy_says(version, checkpoint, expected):
    spec = Spec(Secret(""), checkpoint=checkpoint)
    assert basebackup.command(version, spec, manifest=False, incremental=False) == expected


def test_damage_is_understood_in_other_languages():
    path = "pg_tblspc/16388/PG_18_202506291/5/16400_fsm.2"
    for text in (
        f'checksum verification failed in file "./{path}", block 12: calculated 1F0A but expected 33',
        f"Prüfsummenprüfung ist fehlgeschlagen in Datei »{path}«, Block 12: berechnet D1, aber erwartet ABCD",
        f'ファイル"{path}"、ブロック12でチェックサム検証が失敗しました: 計算値は1F0A、期待値は33',
    ):
        found = basebackup.BaseBackup()
        basebackup._notice(found, text)
        assert found.damaged == [(path, 12)]
    found = basebackup.BaseBackup()
    basebackup._notice(found, f'file "{path}" has a total of 7 checksum verification failures')
    assert found.damaged == []
    assert len(found.warnings) == 1
