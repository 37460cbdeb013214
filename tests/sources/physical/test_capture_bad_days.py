"""Base backups of real servers on bad days: what cannot be done says so, and what was lost costs a full read only."""

import contextlib
import os
import shutil
import signal
import subprocess

import psycopg
import pytest

from keepwell.core.errors import Interrupted, SourceError
from keepwell.core.secrets import Secret
from keepwell.core.streams import Context, Discard
from keepwell.sources import physical
from keepwell.sources.physical.entries import STREAM
from support.backup_chain import Chain, brought_back, files_of
from support.majors import MAJORS
from support.physical_load import (
    LoggingServer,
    balances,
    fill,
    give_to_server,
    load,
    logging_server,
    open_folder,
    programs_of,
    require_balanced,
)

pytestmark = pytest.mark.slow
SUMMARIES = {"summarize_wal": "on", "autovacuum": "off", "min_wal_size": "256MB"}


def ask(server, text, database="postgres"):
    with psycopg.connect(server.url(database).reveal(), autocommit=True) as connection:
        cursor = connection.execute(text)
        return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def started(major=18, **options):
    with open_folder() as folder, logging_server(major, folder / "server", settings=SUMMARIES, **options) as server:
        ask(server, "CREATE TABLE t AS SELECT n AS id, repeat('x', 100) AS t FROM generate_series(1, 20000) n")
        yield server


@pytest.fixture
def server():
    with started() as found:
        yield found


def count(url):
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT count(*) FROM t").fetchone()[0]


@pytest.mark.parametrize("megabytes", [1, 64])
def test_segments_of_another_size(megabytes, tmp_path):
    with started(segment_size=megabytes << 20) as server:
        facts, streams = Chain(server.url(), tmp_path).take()
        assert facts["wal"]["segment_size"] == megabytes << 20
        logs = [len(data) for path, data in files_of(streams).items() if path.startswith("pg_wal/0")]
        assert logs
        assert set(logs) == {megabytes << 20}
        assert brought_back(facts, streams, server.folder.parent / "back", count) == 20000


class _LogElsewhere(LoggingServer):
    def _initdb(self):
        super()._initdb()
        (self.data / "pg_wal").rename(self.folder / "log")
        (self.data / "pg_wal").symlink_to(self.folder / "log")


def test_a_log_that_lies_elsewhere(tmp_path):
    with open_folder() as folder:
        settings = {"wal_level": "replica", "max_wal_senders": "10", "max_replication_slots": "5", **SUMMARIES}
        server = _LogElsewhere(programs_of(18), folder / "server", settings=settings)
        server.start()
        try:
            ask(server, "CREATE TABLE t AS SELECT generate_series(1, 300)")
            chain = Chain(server.url(), tmp_path)
            chain.take()
            facts, streams = chain.take()
            assert facts["method"] == "incremental"
            assert brought_back(facts, streams, folder / "back", count) == 300
        finally:
            server.stop()


def test_a_lost_or_damaged_memory_costs_a_full_read(server, tmp_path):
    chain = Chain(server.url(), tmp_path)
    chain.take()
    (cache,) = tmp_path.iterdir()
    raw = bytearray(cache.read_bytes())
    raw[len(raw) // 2] ^= 1
    cache.write_bytes(raw)
    assert "knows of no earlier backup" in chain.take()[0]["method"]
    assert chain.take()[0]["method"] == "incremental"
    cache.unlink()
    assert "knows of no earlier backup" in chain.take()[0]["method"]


def test_pages_that_the_vault_no_longer_has_cost_a_full_read(server, tmp_path):
    chain = Chain(server.url(), tmp_path)
    chain.take()
    chain.pieces.pop(next(iter(chain.pieces)))
    facts, streams = chain.take()
    assert "no longer has all pages" in facts["method"]
    assert brought_back(facts, streams, server.folder.parent / "back", count) == 20000


def test_missing_summaries_cost_a_full_read_that_says_why(server, tmp_path):
    chain = Chain(server.url(), tmp_path)
    chain.take()
    restarted(server, "off")
    ask(server, "UPDATE t SET t = 'y' WHERE id < 500")
    # Without the log of that time the server cannot make them again.
    for _ in range(3):
        ask(server, "SELECT pg_switch_wal()")
        ask(server, "CHECKPOINT")
    restarted(server, "on")
    facts, streams = chain.take()
    assert facts["method"].startswith("full: ")
    assert "WAL summaries are required" in facts["method"]
    assert brought_back(facts, streams, server.folder.parent / "back", count) == 20000
    assert chain.take()[0]["method"] == "incremental"


def test_a_server_that_no_longer_summarizes_is_read_in_full(server, tmp_path):
    chain = Chain(server.url(), tmp_path)
    chain.take()
    restarted(server, "off")
    assert "summarize_wal is off" in chain.take()[0]["method"]


def restarted(server, summarize):
    """With summarize_wal as said, and without the summaries so far."""
    server._settings |= {"summarize_wal": summarize, "wal_keep_size": "0", "min_wal_size": "32MB"}
    server.stop()
    shutil.rmtree(server.data / "pg_wal/summaries")
    (server.data / "pg_wal/summaries").mkdir(mode=0o700)
    give_to_server(server.data / "pg_wal/summaries")
    server.start()


@pytest.mark.parametrize("right", ["role", "hba"])
def test_a_refused_replication_connection_says_what_is_needed(server, right, tmp_path):
    ask(server, "CREATE ROLE weak LOGIN")
    url = Secret(server.url().reveal().replace("postgres@", "weak@"))
    if "user=postgres" in server.url().reveal():
        url = Secret(server.url().reveal().replace("user=postgres", "user=weak"))
    if right == "hba":
        ask(server, "ALTER ROLE weak REPLICATION")
        (server.data / "pg_hba.conf").write_text("local all all trust\n")
        ask(server, "SELECT pg_reload_conf()")
    assert url.reveal() != server.url().reveal()
    with pytest.raises(SourceError) as caught:
        Chain(url, tmp_path).take()
    assert "REPLICATION" in caught.value.hint
    assert not list(tmp_path.iterdir())


def flip(server, table="t", block=3):
    ((name,),) = ask(server, f"SELECT pg_relation_filepath('{table}')")
    server.stop()
    with (server.data / name).open("r+b") as file:
        file.seek(block * 8192 + 4000)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    server.start()
    return name


def test_a_damaged_page_is_named_and_the_policy_decides(server, tmp_path):
    if ask(server, "SHOW data_checksums") == [("off",)]:
        server.stop()
        command = [server.programs.path("pg_checksums"), "--enable", "--no-sync", "-D", str(server.data)]
        subprocess.run(command, check=True, capture_output=True, cwd="/", **server._identity())
        server.start()
    path = flip(server)
    with pytest.raises(SourceError) as caught:
        Chain(server.url(), tmp_path).take()
    assert path in str(caught.value)
    assert "block 3" in str(caught.value)
    assert not list(tmp_path.iterdir())
    facts, _ = Chain(server.url(), tmp_path, on_damaged_page="keep").take()
    assert facts["damaged_pages"] == [{"path": path, "block": 3}]
    assert any(path in text for text in facts["warnings"])


def test_a_server_that_dies_in_the_middle_is_an_error_and_leaves_no_memory(server, tmp_path):
    calls = []

    def kill():
        calls.append(1)
        if len(calls) == 5:
            os.kill(server.pid, signal.SIGQUIT)
        return False

    chain = Chain(server.url(), tmp_path)
    with pytest.raises(SourceError):
        chain.take(cancelled=kill)
    assert len(calls) >= 5
    assert not list(tmp_path.iterdir())


def test_an_interrupt_ends_the_backup_and_leaves_no_memory(server, tmp_path):
    with pytest.raises(Interrupted):
        Chain(server.url(), tmp_path).take(cancelled=lambda: True)
    assert not list(tmp_path.iterdir())
    assert ask(server, "SELECT count(*) FROM pg_replication_slots WHERE NOT temporary") == [(0,)]


def test_a_sink_that_keeps_nothing_gets_a_full_read_each_time(server, tmp_path):
    for _ in range(2):
        facts = physical.capture(physical.Spec(server.url(), read_from="server"), Discard(), Context(cache=tmp_path))
        assert facts["method"].startswith("full")
        assert STREAM in facts["streams"]


def test_a_standby_is_a_source_and_after_its_promotion_everything_is_read(server, tmp_path):
    folder = server.folder.parent / "standby"
    folder.mkdir()
    give_to_server(folder)
    command = [server.programs.path("pg_basebackup"), "-D", str(folder / "data"), "-R", "-c", "fast", "--no-sync"]
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        cwd="/",
        env={**os.environ, **server.address().environment()},
        **server._identity(),
    )
    settings = {"wal_level": "replica", "max_wal_senders": "10", "max_replication_slots": "5", **SUMMARIES}
    standby = LoggingServer(server.programs, folder, settings=settings)
    standby.start()
    try:
        ((lsn,),) = ask(server, "SELECT pg_current_wal_insert_lsn()::text")
        while ask(standby, f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'") != [(True,)]:
            pass
        chain = Chain(standby.url(), tmp_path)
        facts, streams = chain.take()
        assert facts["wal"]["standby"] is True
        assert brought_back(facts, streams, server.folder.parent / "back", count) == 20000
        ask(standby, "SELECT pg_promote()")
        ask(standby, "CHECKPOINT")
        facts, streams = chain.take()
        assert "timeline 2" in facts["method"]
        assert brought_back(facts, streams, server.folder.parent / "back2", count) == 20000
    finally:
        standby.stop()


@pytest.mark.parametrize("major", MAJORS)
def test_the_sums_are_equal_in_backups_taken_while_pgbench_runs(major, tmp_path):
    with (
        open_folder() as folder,
        logging_server(major, folder / "server", settings=SUMMARIES if major > 16 else {"autovacuum": "off"}) as server,
    ):
        fill(server)
        chain, before = Chain(server.url(), tmp_path), 0
        with load(server):
            for number in range(3):
                then = balances(server.url().reveal()).transactions
                facts, streams = chain.take()
                found = brought_back(facts, streams, folder / f"back{number}", require_balanced)
                assert found.transactions >= then >= before
                before = then
        assert (facts["method"] == "incremental") == (major >= 17)
