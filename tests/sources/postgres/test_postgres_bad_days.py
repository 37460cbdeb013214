"""Tables dropped meanwhile, programs and servers that die, interruptions: never a half backup, always a clear error."""

import contextlib
import itertools
import threading
import time

import psutil
import psycopg
import pytest

from keepwell.core.errors import Damaged, Interrupted, ProofFailed, SourceError, TargetNotEmpty, UsageError
from keepwell.core.secrets import Secret
from keepwell.core.streams import Context, Discard, MemoryStreams
from keepwell.sources import postgres
from keepwell.sources.base import RestoreRequest
from keepwell.sources.postgres import dump, snapshot
from keepwell.sources.postgres.server import ThrowawayServer

pytestmark = pytest.mark.slow

TABLES = (
    "CREATE TABLE stays (x int); INSERT INTO stays VALUES (1); CREATE TABLE goes (x int); INSERT INTO goes VALUES (2)"
)


def until(condition):
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit, "it did not happen within a minute"
        time.sleep(0.01)


def waiting_for_locks(server, database):
    return server.ask(
        "SELECT count(*) FROM pg_locks WHERE NOT granted "
        f"AND database = (SELECT oid FROM pg_database WHERE datname = '{database}')"
    )[0][0]


class Hooked(MemoryStreams):
    """Calls `hook` when the stream of that name is begun: by then every pg_dump holds its locks."""

    def __init__(self, hook, name="data-rest"):
        super().__init__()
        self.hook, self.name = hook, name

    def stream(self, name, cut="content"):
        if name == self.name:
            self.hook()
        return super().stream(name, cut)


def no_programs_left():
    return not [child for child in psutil.Process().children() if child.name().startswith(("pg_dump", "pg_restore"))]


def test_a_table_dropped_before_the_locks_is_not_in_the_backup(server):
    database = server.database(TABLES)
    with psycopg.connect(server.url(database).reveal()) as dropping:
        dropping.execute("DROP TABLE goes")  # not committed: whoever looks still sees it

        def commit():
            until(lambda: waiting_for_locks(server, database))
            dropping.commit()

        thread = threading.Thread(target=commit)
        thread.start()
        facts, _ = server.capture(database)
        thread.join()
    assert list(facts["tables"]) == ["public.stays"]


def test_a_table_dropped_after_the_locks_is_in_the_backup(server):
    database = server.database(TABLES)
    dropping = threading.Thread(target=server.run, args=("DROP TABLE goes", database))

    def drop():
        dropping.start()
        until(lambda: waiting_for_locks(server, database))

    facts, streams = server.capture(database, sink=Hooked(drop))
    dropping.join()
    assert facts["tables"]["public.goes"]["rows"] == 1
    assert server.ask("SELECT to_regclass('goes')", database) == [(None,)]
    restored, _ = server.restore(facts, streams)
    assert server.ask("SELECT x FROM goes", restored) == [(2,)]


def test_a_drop_that_comes_between_makes_the_backup_begin_again(server, monkeypatch):
    """The DROP waits for us, and pg_dump waits for the DROP: nobody would ever move."""
    database = server.database(TABLES)
    monkeypatch.setattr(dump, "_LOCK_WAIT", "300ms")
    dropping = threading.Thread(target=server.run, args=("DROP TABLE goes", database))
    begun = itertools.count(1)
    lock = snapshot._lock

    def lock_then_drop(connection, wanted):
        lock(connection, wanted)
        if next(begun) == 1:
            dropping.start()
            until(lambda: waiting_for_locks(server, database))

    monkeypatch.setattr(snapshot, "_lock", lock_then_drop)
    facts, _ = server.capture(database)
    dropping.join()
    assert list(facts["tables"]) == ["public.stays"]
    assert next(begun) > 3  # twice a round


def test_somebody_who_alters_a_table_for_ever_is_named(server):
    database = server.database(TABLES)
    with psycopg.connect(server.url(database).reveal()) as altering:
        altering.execute("ALTER TABLE goes ADD COLUMN y int")
        with pytest.raises(SourceError, match="altering or dropping a table for 1 s") as failed:
            server.capture(database, lock_seconds=1)
        altering.rollback()
    assert "pg_stat_activity" in failed.value.hint


def test_a_backup_sees_one_moment_only(server):
    """A transaction over two tables is in it whole or not at all, though they are read by different processes."""
    database = server.database("CREATE TABLE a AS SELECT generate_series(1, 20000) n; CREATE TABLE b AS TABLE a")
    stop = threading.Event()

    def write():
        with psycopg.connect(server.url(database).reveal(), autocommit=True) as connection:
            while not stop.is_set():
                connection.execute("BEGIN; INSERT INTO a VALUES (0); INSERT INTO b VALUES (0); COMMIT")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            facts, _ = server.capture(database, big_table=100_000, jobs=3)
            assert facts["tables"]["public.a"]["rows"] == facts["tables"]["public.b"]["rows"]
            assert facts["tables"]["public.a"]["stream"] != facts["tables"]["public.b"]["stream"]
    finally:
        stop.set()
        writer.join()


LARGE = "CREATE TABLE large AS SELECT n, repeat(md5(n::text), 10) FROM generate_series(1, 60000) n"


def test_a_pg_dump_that_is_killed_half_way_is_an_error(server):
    database = server.database(LARGE)

    def kill():
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.ZombieProcess):
                if "--section=data" in child.cmdline():
                    child.kill()

    with pytest.raises(SourceError, match="pg_dump was killed by signal 9"):
        server.capture(database, sink=Hooked(kill))
    assert no_programs_left()


def test_a_server_that_vanishes_half_way_is_an_error(server, open_folder):
    own = ThrowawayServer(server.programs, open_folder / "server")
    own.start()
    try:
        with psycopg.connect(own.url().reveal(), autocommit=True) as connection:
            connection.execute(LARGE)
        with pytest.raises(SourceError) as failed:
            postgres.capture(postgres.Spec(own.url()), Hooked(lambda: own.stop(keep=False)), Context())
    finally:
        own.stop(keep=False)
    assert failed.value.hint
    assert no_programs_left()


def test_a_server_that_is_not_there_is_an_error(server):
    with pytest.raises(SourceError, match=r"cannot connect to leads on 127.0.0.1:1: .*refused"):
        postgres.capture(postgres.Spec(Secret("postgresql://me:secret@127.0.0.1:1/leads")), Discard(), Context())


def test_a_database_that_is_not_there_is_an_error(server):
    with pytest.raises(SourceError, match='database "nowhere" does not exist') as failed:
        server.capture("nowhere")
    assert "database name" in failed.value.hint


def test_an_interrupted_backup_ends_its_programs(server):
    database = server.database(LARGE)
    stop = threading.Event()
    with pytest.raises(Interrupted):
        postgres.capture(postgres.Spec(server.url(database)), Hooked(stop.set), Context(cancelled=stop.is_set))
    assert no_programs_left()
    until(lambda: server.ask(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'") == [(0,)])


def test_an_interrupted_restore_says_where_the_half_of_it_is(server):
    facts, streams = server.capture(server.database(LARGE))
    name = f"restored_{next(server.numbers)}"
    target = postgres.Target(server.url(name), create=True)
    with pytest.raises(Interrupted) as stopped:
        postgres.restore(facts, streams, target, RestoreRequest(), Context(cancelled=lambda: True))
    assert name in stopped.value.hint
    assert no_programs_left()


def test_a_sink_that_fails_ends_the_backup(server):
    database = server.database(LARGE)

    class Full(MemoryStreams):
        def stream(self, name, cut="content"):
            writer = super().stream(name, cut)
            if name == "data-rest":
                writer.write = self.refuse
            return writer

        def refuse(self, data):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        server.capture(database, sink=Full())
    assert no_programs_left()


def test_a_restore_never_overwrites(server):
    facts, streams = server.capture(server.database(TABLES))
    for sql in (
        "CREATE TABLE stays (x int)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TYPE e AS ENUM ()",
        "SELECT lo_create(0)",
    ):
        used = server.database(sql)
        with pytest.raises(TargetNotEmpty, match="is not empty"):
            postgres.restore(facts, streams, postgres.Target(server.url(used)), RestoreRequest(), Context())
        target = postgres.Target(server.url(used), create=True)
        with pytest.raises(TargetNotEmpty, match="exists already"):
            postgres.restore(facts, streams, target, RestoreRequest(), Context())


def test_an_empty_database_that_is_there_is_filled(server):
    facts, streams = server.capture(server.database(TABLES))
    empty = server.database("CREATE EXTENSION pg_trgm")
    report = postgres.restore(facts, streams, postgres.Target(server.url(empty)), RestoreRequest(), Context())
    assert report.tables == {"public.stays": 1, "public.goes": 1}
    assert set(report.seconds) == {"schema", "rows", "indexes and keys", "privileges", "statistics"}


def test_rows_that_are_missing_in_the_stream_are_noticed(server):
    facts, streams = server.capture(server.database("CREATE TABLE t AS SELECT generate_series(1, 100) n"))
    facts["tables"]["public.t"]["rows"] = 101
    with pytest.raises(ProofFailed, match=r"100 rows arrived .* 101 were backed up"):
        server.restore(facts, streams)


def test_a_damaged_schema_archive_is_an_error(server):
    facts, streams = server.capture(server.database(TABLES))
    del streams.data["schema.custom"][20:]
    with pytest.raises(Damaged, match="archive of the schema cannot be read"):
        server.restore(facts, streams)


def test_a_missing_extension_is_named_before_anything_is_made(server):
    facts, streams = server.capture(server.database(TABLES))
    facts["extensions"]["postgis"] = "3.5"
    name = f"restored_{next(server.numbers)}"
    with pytest.raises(SourceError, match="does not have the extensions that the backup needs: postgis"):
        postgres.restore(facts, streams, postgres.Target(server.url(name), create=True), RestoreRequest(), Context())
    assert server.ask(f"SELECT 1 FROM pg_database WHERE datname = '{name}'") == []


def test_a_statement_that_the_server_refuses_is_shown(server):
    database = server.database("CREATE FUNCTION f() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'")
    server.run("CREATE TABLE t (x int DEFAULT f())", database)
    facts, streams = server.capture(database)
    # The archive of another database: what its table needs is not in it.
    other, wrong = server.capture(server.database("CREATE TABLE t (x int CHECK (x > 0)); INSERT INTO t VALUES (1)"))
    streams.data["schema.custom"] = wrong.data["schema.custom"]
    facts["tables"] = {**other["tables"]}
    facts["tables"]["public.t"] |= {"columns": ["y"]}
    streams.data["data-rest"] = bytearray(
        bytes(wrong.data["data-rest"]).replace(b"COPY public.t (x)", b"COPY public.t (y)")
    )
    with pytest.raises(SourceError, match='column "y" of relation "t" does not exist'):
        server.restore(facts, streams)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (RestoreRequest(tables=("public.stay",)), "no table 'public.stay'"),
        (RestoreRequest(paths=("a",)), "has tables, not paths"),
        (RestoreRequest(), "needs a database"),
    ],
)
def test_a_wrong_request_is_refused(server18, request_, message):
    facts, streams = server18.capture(server18.database(TABLES))
    with pytest.raises(UsageError, match=message) as refused:
        postgres.restore(facts, streams, None, request_, Context())
    if request_.tables:
        assert refused.value.hint.startswith("There is public.stays")
