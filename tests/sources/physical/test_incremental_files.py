"""Base backups that read the changed pages themselves: on bad days everything is read, or the backup says what is wrong."""

import os
import subprocess
from contextlib import closing

import psycopg
import pytest

from keepwell.core.clock import FakeClock, SystemClock
from keepwell.core.errors import SourceError
from keepwell.core.streams import Context
from keepwell.sources.base import RestoreRequest
from keepwell.sources.physical import Target, restore, summaries
from keepwell.sources.physical.summaries import Untold
from support.backup_chain import Chain, brought_back
from support.captured import capture, differences, files_of
from support.physical_load import (
    LOGGING,
    LoggingServer,
    await_end_of_recovery,
    fill,
    load,
    logging_server,
    open_folder,
    require_balanced,
)

pytestmark = pytest.mark.slow
SUMMARIES = {"summarize_wal": "on", "autovacuum": "off", "min_wal_size": "256MB"}
INCREMENTAL = "incremental, from the files"


def ask(server, text):
    with psycopg.connect(server.url().reveal(), autocommit=True) as connection:
        cursor = connection.execute(text)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def folder():
    with open_folder() as found:
        yield found


@pytest.fixture
def server(folder):
    with logging_server(18, folder / "server", settings=SUMMARIES) as found:
        ask(found, "CREATE TABLE t AS SELECT n AS id, repeat('x', 100) AS t FROM generate_series(1, 20000) n")
        yield found


def count(url):
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT count(*) FROM t").fetchone()[0]


def run(server, program, *options):
    command = [server.programs.path(program), *options, "-D", str(server.data)]
    subprocess.run(command, check=True, capture_output=True, cwd="/", **server._identity())


def test_backups_under_load_are_consistent(folder):
    with logging_server(18, folder / "server", settings=SUMMARIES) as server:
        fill(server)
        chain, methods = Chain(server.url(), folder / "cache", read_from="files"), []
        with load(server):
            for _ in range(4):
                facts, streams = chain.take()
                methods.append(facts["method"])
        assert methods[1:] == [INCREMENTAL] * 3
        restore(facts, streams, Target(folder / "data"), RestoreRequest(), Context())
    with LoggingServer(server.programs, folder, settings=LOGGING) as again:
        await_end_of_recovery(again)
        assert require_balanced(again.url().reveal()).transactions > 0


def test_they_go_on_after_a_restart_of_the_server_and_after_a_backup_by_the_server(server, folder):
    by_server = Chain(server.url(), folder / "cache", read_from="server")
    by_files = Chain(server.url(), folder / "cache", read_from="files")
    by_files.pieces = by_server.pieces
    by_server.take()
    for n in range(2):
        ask(server, f"UPDATE t SET t = 'round {n}' WHERE id % 50 = {n}")
        server.stop()
        server.start()
        facts, streams = by_files.take()
        assert facts["method"] == INCREMENTAL
        assert by_server.take()[0]["method"] == "incremental"
    assert brought_back(facts, streams, folder / "back", count) == 20000
    ask(server, "CHECKPOINT")
    # What the backups' own sessions did (hint bits, statistics) may be in one of two only.
    skip = {path for path in files_of(streams) if path.startswith("pg_stat/")} | {"logfile", "postgresql.auto.conf"}
    assert differences(files_of(by_files.take()[1]), files_of(by_server.take()[1]), ignore=skip) == []


def test_without_summaries_all_files_are_read_and_the_method_says_why(server, folder):
    chain = Chain(server.url(), folder / "cache", read_from="files")
    chain.take()
    ask(server, "UPDATE t SET t = 'other' WHERE id < 500; CHECKPOINT")
    server.stop()
    for path in (server.data / "pg_wal" / "summaries").iterdir():
        path.unlink()
    # Without the log of that time the server cannot make them again.
    run(server, "pg_resetwal", "-f")
    server.start()
    facts, streams = chain.take()
    assert facts["method"].startswith("files: 0 of ")
    assert "no summaries of its log" in facts["method"]
    assert brought_back(facts, streams, folder / "back", count) == 20000
    assert chain.take()[0]["method"] == INCREMENTAL


def test_a_summary_that_goes_away_meanwhile_is_missed(server, monkeypatch):
    ((first,),) = ask(server, "SELECT pg_current_wal_lsn()::text")
    ask(server, "UPDATE t SET t = 'other'; CHECKPOINT")
    ((last,),) = ask(server, "SELECT redo_lsn::text FROM pg_control_checkpoint()")
    covering = summaries._covering

    def lost(*args):
        found = covering(*args)
        for path in (server.data / "pg_wal" / "summaries").iterdir():
            path.unlink()
        return found

    def learn():
        with closing(psycopg.connect(server.url().reveal(), autocommit=True)) as connection:
            since, until = summaries.parse_lsn(first), summaries.parse_lsn(last)
            return summaries.changes(connection, 1, since, until, segment=131072, clock=SystemClock())

    ((path,),) = ask(server, "SELECT pg_relation_filepath('t')")
    pages = os.stat(server.data / path).st_size // 8192
    assert learn().of(path, pages, pages) is None  # all of it was changed
    monkeypatch.setattr(summaries, "_covering", lost)
    with pytest.raises(Untold, match="could not open file"):
        learn()
    monkeypatch.undo()
    with pytest.raises(Untold, match="no summaries of its log from"):
        learn()


def test_a_summarizer_that_does_not_get_on_is_not_waited_for_and_a_lost_connection_is_an_error(server):
    with closing(psycopg.connect(server.url().reveal(), autocommit=True)) as connection:
        with pytest.raises(Untold, match="does not get on"):
            summaries.changes(connection, 1, 1 << 20, 1 << 50, segment=131072, clock=FakeClock())
        with pytest.raises(Untold, match="behind"):
            summaries.changes(connection, 1, 1 << 50, 1 << 20, segment=131072, clock=FakeClock())
        ask(server, f"SELECT pg_terminate_backend({connection.info.backend_pid})")
        with pytest.raises(SourceError, match="connection to the server was lost"):
            summaries.changes(connection, 1, 1 << 20, 1 << 20, segment=131072, clock=FakeClock())


def test_without_the_right_to_see_summaries_all_files_are_read(server, folder):
    chain = Chain(server.url(), folder / "cache", read_from="files")
    chain.take()
    ask(server, "REVOKE EXECUTE ON FUNCTION pg_wal_summary_contents FROM PUBLIC")
    ask(server, "CREATE ROLE backup LOGIN REPLICATION; GRANT pg_read_all_settings TO backup")
    ask(server, "GRANT EXECUTE ON FUNCTION pg_backup_start, pg_backup_stop TO backup")
    chain.url = type(server.url())(server.url().reveal().replace("user=postgres", "user=backup"))
    facts, streams = chain.take()
    assert "permission denied for function pg_wal_summary_contents" in facts["method"]
    assert facts["method"].startswith("files: ")
    assert brought_back(facts, streams, folder / "back", count) == 20000


@pytest.mark.parametrize("way", ["files", "server"])
def test_where_page_checksums_were_switched_on_everything_is_read(folder, way):
    """pg_checksums writes every page and no log: laid over the old ones, the pages that stay would have none."""
    with logging_server(18, folder / "server", settings=SUMMARIES) as server:
        server.stop()
        run(server, "pg_checksums", "--disable")
        server.start()
        ask(server, "CREATE TABLE t AS SELECT n AS id, repeat('x', 100) AS t FROM generate_series(1, 20000) n")
        chain = Chain(server.url(), folder / "cache", read_from=way)
        chain.take()
        server.stop()
        run(server, "pg_checksums", "--enable")
        server.start()
        facts, streams = chain.take()
        assert "page checksums were switched" in facts["method"]
        assert brought_back(facts, streams, folder / "back", count) == 20000
        assert chain.take()[0]["method"].startswith("incremental")
        restore(facts, streams, Target(folder / "data"), RestoreRequest(), Context())
        assert brought_back(facts, streams, folder / "again", count) == 20000
        check = [server.programs.path("pg_checksums"), "--check", "-D", str(folder / "again")]
        subprocess.run(check, check=True, capture_output=True, cwd="/", **server._identity())


def test_a_page_that_was_damaged_in_the_last_backup_is_looked_at_again(server, folder):
    ((path,),) = ask(server, "SELECT pg_relation_filepath('t')")
    server.stop()
    whole = (server.data / path).read_bytes()
    with (server.data / path).open("r+b") as file:
        file.seek(7 * 8192 + 4000)
        file.write(b"rot")
    server.start()
    chain = Chain(server.url(), folder / "cache", read_from="files", on_damaged_page="keep")
    for _ in range(2):
        facts, streams = chain.take()
        assert facts["damaged_pages"] == [{"path": path, "block": 7}]
    assert facts["method"] == INCREMENTAL
    strict = Chain(server.url(), folder / "cache", read_from="files")
    strict.pieces = chain.pieces
    with pytest.raises(SourceError, match="damaged"):
        strict.take()
    with (server.data / path).open("r+b") as file:  # somebody put the disk right
        file.write(whole)
    facts, streams = chain.take()
    assert facts["method"] == INCREMENTAL
    assert facts["damaged_pages"] == []
    assert files_of(streams)[path][2] == whole
    assert capture(server, read_from="files")[0]["damaged_pages"] == []
