"""A proof must be able to fail: every kind of tampering with a restored database is found and named."""

import contextlib
import shutil
import signal
import subprocess
import sys

import psutil
import psycopg
import pytest

from keepwell.core.errors import SourceError
from keepwell.core.streams import Context, Discard
from keepwell.sources import postgres
from keepwell.sources.base import RestoreRequest
from keepwell.sources.postgres.programs import servers
from keepwell.sources.postgres.server import ThrowawayServer

pytestmark = pytest.mark.slow

SAMPLE = """
CREATE TABLE users (id serial PRIMARY KEY, name text UNIQUE); INSERT INTO users (name) SELECT 'u' || n FROM generate_series(1, 50) n;
CREATE TABLE leads (id serial PRIMARY KEY, owner int REFERENCES users, value numeric CHECK (value >= 0));
INSERT INTO leads (owner, value) SELECT n % 50 + 1, n FROM generate_series(1, 500) n;
CREATE INDEX leads_value ON leads (value); CREATE VIEW rich AS SELECT * FROM leads WHERE value > 100;
CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER tr BEFORE UPDATE ON leads FOR EACH ROW EXECUTE FUNCTION t();
SELECT lo_from_bytea(99, 'contract');
"""


@pytest.fixture
def restored(server):
    then, streams = server.capture(server.database(SAMPLE))
    name, _ = server.restore(then, streams)
    return server, name, then


def compared(server, name, then):
    now = postgres.capture(postgres.respec(postgres.Target(server.url(name)), then, None), Discard(), Context())
    return [(finding.what, finding.problem) for finding in postgres.compare(then, now)]


def examined(server, name, then):
    found = postgres.examine(postgres.Target(server.url(name)), then, Context())
    return [(finding.what, finding.problem) for finding in found]


def test_an_untouched_restore_has_no_findings(restored):
    server, name, then = restored
    assert compared(*restored) == []
    assert examined(*restored) == []
    assert postgres.count_rows(postgres.Target(server.url(name)), then) == {"public.leads": 500, "public.users": 50}
    # The checks leave no trace.
    assert server.ask("SELECT extname FROM pg_extension", name) == [("plpgsql",)]


@pytest.mark.parametrize(
    ("sql", "finding"),
    [
        (
            "UPDATE leads SET value = value + 1 WHERE id = 7",
            ("public.leads", "has as many rows as were backed up, but not the same values"),
        ),
        ("DELETE FROM leads WHERE id = 7", ("public.leads", "has 499 rows; 500 were backed up")),
        ("SELECT setval('leads_id_seq', 3)", ("public.leads_id_seq", "the sequence stands at 3; it stood at 500")),
        ("SELECT lo_put(99, 0, 'C')", ("large objects", "as many as were backed up, but not the same bytes")),
        ("SELECT lo_unlink(99)", ("large objects", "there are 0; 1 were backed up")),
        ("DROP INDEX leads_value", ("public.leads_value", "the index is missing")),
        ("DROP TABLE leads CASCADE", ("public.leads", "the table is missing")),
        ("CREATE TABLE more ()", ("public.more", "the table was not in the backup")),
        (
            "ALTER TABLE leads ALTER value SET DEFAULT 1",
            ("schema (pre-data)", "the definitions differ from those of the backup"),
        ),
    ],
)
def test_a_comparison_finds(restored, sql, finding):
    server, name, _ = restored
    server.run(sql, name)
    assert finding in compared(*restored)


@pytest.mark.parametrize(
    ("sql", "finding"),
    [
        ("DROP INDEX leads_value", ("public.leads_value", "the index is missing")),
        (
            "ALTER TABLE leads DROP CONSTRAINT leads_owner_fkey",
            ("leads_owner_fkey on public.leads", "the constraint is missing"),
        ),
        (
            "ALTER TABLE leads DROP CONSTRAINT leads_value_check, ADD CONSTRAINT leads_value_check CHECK (value > 0) NOT VALID",
            ("leads_value_check on public.leads", "the constraint is not validated; it was at backup time"),
        ),
        ("DROP TRIGGER tr ON leads", ("tr on public.leads", "the trigger is missing")),
        ("DROP VIEW rich", ("public.rich", "the view is missing")),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'leads_value'::regclass",
            ("public.leads_value", "the index is invalid"),
        ),
    ],
)
def test_an_examination_finds(restored, sql, finding):
    server, name, _ = restored
    server.run(sql, name)
    assert finding in examined(*restored)


def test_an_index_that_does_not_have_every_row_is_found(server):
    database = server.database(
        "CREATE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'; CREATE TABLE t (x int); "
        "INSERT INTO t SELECT generate_series(1, 100); CREATE INDEX broken ON t (f(x))"
    )
    then, streams = server.capture(database)
    name, _ = server.restore(then, streams)
    assert examined(server, name, then) == []
    server.run("CREATE OR REPLACE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1'", name)
    ((what, problem),) = examined(server, name, then)
    assert what == "public.broken"
    assert "lacks matching index tuple" in problem


def test_a_check_that_cannot_be_carried_out_is_a_finding(restored):
    server, name, then = restored
    server.run("DROP ROLE IF EXISTS kw_nobody; CREATE ROLE kw_nobody LOGIN")
    found = postgres.examine(postgres.Target(server.login("kw_nobody", name)), then, Context())
    server.run("DROP ROLE kw_nobody")
    assert any("amcheck could not be carried out" in finding.problem for finding in found)


def test_questions_of_the_policy_are_answered_and_change_nothing(restored):
    server, name, _ = restored
    target = postgres.Target(server.url(name))
    assert postgres.query(target, "select count(*) from leads") == 500
    assert postgres.query(target, "select 1 where false") is None
    with pytest.raises(SourceError, match="read-only transaction"):
        postgres.query(target, "delete from leads returning 1")
    with pytest.raises(SourceError, match='relation "lead" does not exist') as failed:
        postgres.query(target, "select count(*) from lead")
    assert "select count(*) from lead" in failed.value.hint


def test_the_sandbox_is_gone_afterwards_even_after_an_error(server):
    then, _ = server.capture(server.database(SAMPLE))
    with pytest.raises(RuntimeError, match="on purpose"), postgres.sandbox(then, Context()) as target:  # noqa: PT012
        (socket,) = [part[5:] for part in target.url.reveal().split() if part.startswith("host=")]
        with psycopg.connect(target.url.reveal().replace("dbname=restored", "dbname=postgres")) as connection:
            (data,) = connection.execute("SHOW data_directory").fetchone()
            (version,) = connection.execute("SHOW server_version_num").fetchone()
        raise RuntimeError("on purpose")
    assert int(version) // 10000 == server.programs.major
    for folder in (socket, data):
        assert not shutil.os.path.exists(folder)


def test_the_sandbox_may_be_restored_into(server):
    then, streams = server.capture(server.database(SAMPLE))
    with postgres.sandbox(then, Context()) as target:
        report = postgres.restore(then, streams, target, RestoreRequest(), Context())
        assert report.warnings == []
        assert postgres.examine(target, then, Context()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from keepwell.sources.postgres.programs import servers
from keepwell.sources.postgres.server import ThrowawayServer
server = ThrowawayServer(servers(int(sys.argv[1])), Path(sys.argv[2]))
server.start()
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_server_does_not_outlive_a_killed_keepwell(server, open_folder):
    command = [sys.executable, "-c", KILLED, str(server.programs.major), str(open_folder / "server")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(ended.stdout)).wait(60)


def test_a_server_can_be_stopped_and_started_again(server, open_folder):
    own = ThrowawayServer(servers(server.programs.major), open_folder / "server")
    with own:
        with psycopg.connect(own.url().reveal(), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    with own, psycopg.connect(own.url().reveal()) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
