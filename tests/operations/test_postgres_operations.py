"""The whole story with a real PostgreSQL: backed up, proven, and proofs that fail when they should."""

import gzip
import json
import shutil
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from keepwell.core.errors import SourceError, TargetNotEmpty, UsageError
from keepwell.core.secrets import Secret
from keepwell.core.streams import Context
from keepwell.operations.export import ExportRequest, export
from keepwell.sources.postgres.connection import parse
from keepwell.sources.postgres.programs import servers
from keepwell.sources.postgres.server import ThrowawayServer, free_port
from support import workplace
from support.majors import MAJORS, NAMES
from support.servers import unavailable

pytestmark = pytest.mark.slow

SCHEMA = """
CREATE TYPE stage AS ENUM ('new', 'won', 'lost');
CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE leads (id bigint PRIMARY KEY, owner bigint REFERENCES users, stage stage, amount numeric(10, 2));
CREATE INDEX leads_by_stage ON leads (stage);
CREATE TABLE activities (lead bigint, at date) PARTITION BY RANGE (at);
CREATE TABLE activities_2026 PARTITION OF activities FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO users (name) SELECT 'user ' || n FROM generate_series(1, 20) n;
INSERT INTO leads SELECT n, n % 20 + 1, 'won', n * 1.5 FROM generate_series(1, 500) n;
INSERT INTO activities SELECT n, '2026-05-01' FROM generate_series(1, 30) n;
"""
SOURCE = """
[environments.production.sources.pg]
type = "postgres"
url = { env = "LEADS_URL" }
critical_tables = ["users", "public.leads", "activities"]
checks = [{ name = "won leads have amounts", sql = "select count(*) from leads where amount <= 0", expect = "= 0" }]
portable = ["weekly"]
"""


@pytest.fixture(scope="module", params=MAJORS, ids=NAMES)
def server(request):
    programs = servers(request.param)
    if programs.major != request.param:
        unavailable(f"no PostgreSQL {request.param} here; there is {programs.major}")
    folder = Path(tempfile.mkdtemp(prefix="keepwell-test-"))
    folder.chmod(0o711)  # as root the server runs as another user
    running = ThrowawayServer(programs, folder / "server", port=free_port())
    running.start()
    yield running
    running.stop(keep=False)
    shutil.rmtree(folder)


def run(url, *statements):
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else None


@pytest.fixture
def leads(server, request, monkeypatch):
    """The URL of a filled database, with its password in it, in LEADS_URL."""
    name = f"leads_{abs(hash(request.node.name)) % 10**9}"
    run(server.url().reveal(), f"CREATE DATABASE {name}")
    url = server.tcp_url(name).reveal()
    run(url, SCHEMA)
    monkeypatch.setenv("LEADS_URL", url)
    return url


@pytest.fixture
def place(tmp_path, leads):
    return workplace.make(tmp_path / "work", more=SOURCE)


def findings(result):
    return {f["what"]: f["problem"] for f in result.json()["sources"]["pg"]["findings"]}


def on(sql):
    def after_restore(source, target):
        if source == "pg":
            run(target.url.reveal(), sql)

    return after_restore


def new_name(leads):
    return f"{parse_name(leads)}_new"


def parse_name(url):
    return url.rpartition("/")[2]


def test_a_database_is_backed_up_with_the_others_and_proven(place):
    result = place.backup()
    assert result.status == "complete"
    assert result.json()["sources"]["pg"]["tables"]["public.leads"] == {"rows": 500}
    proof = place.verify()
    assert proof.passed, findings(proof)
    document = proof.json()["sources"]["pg"]
    assert document["tables"]["public.leads"] == {"rows": 500, "equal": True}
    assert document["tables"]["public.activities_2026"] == {"rows": 30, "equal": True}
    assert [c["passed"] for c in document["checks"]] == [True] * 4
    assert place.listed()[0].proven


@pytest.mark.parametrize(
    ("sql", "unnoticed", "level", "what", "problem"),
    [
        ("UPDATE leads SET amount = 7.77 WHERE id = 7", "restore", "round-trip", "public.leads", "not the same values"),
        ("DELETE FROM leads WHERE id = 7", "objects", "restore", "public.leads", "499 rows; 500"),
        ("DROP INDEX leads_by_stage", "objects", "restore", "public.leads_by_stage", "missing"),
        ("DROP TABLE activities", "objects", "restore", "public.activities_2026", "missing"),
        (
            "ALTER TABLE leads ALTER owner SET NOT NULL",
            "restore",
            "round-trip",
            "schema (pre-data)",
            "definitions differ",
        ),
        ("UPDATE leads SET amount = -1", "", "checks", "check 'won leads have amounts'", "the answer is 500"),
    ],
)
def test_the_right_level_catches_what_is_wrong(place, sql, unnoticed, level, what, problem):
    place.backup()
    if unnoticed:
        assert place.verify(unnoticed, sources=["pg"], after_restore=on(sql)).passed
    result = place.verify(level, sources=["pg"], after_restore=on(sql))
    assert not result.passed
    assert problem in findings(result)[what]
    assert not place.listed()[0].proven


def test_a_machine_that_proves_needs_no_access_to_production(place, monkeypatch):
    place.backup()
    monkeypatch.delenv("LEADS_URL")
    assert place.verify(sources=["pg"]).passed


def test_restore_into_an_empty_database_by_reference(place, server, leads, monkeypatch, tmp_path):
    place.backup()
    new = new_name(leads)
    run(server.url().reveal(), f"CREATE DATABASE {new}")
    target = server.tcp_url(new).reveal()
    monkeypatch.setenv("TARGET_URL", target)

    result = place.restore(source="pg", to="env:TARGET_URL")
    assert run(target, "SELECT count(*), sum(amount) FROM leads") == run(
        leads, "SELECT count(*), sum(amount) FROM leads"
    )
    assert result.json()["sources"]["pg"]["tables"]["public.leads"] == 500
    assert server.password.reveal() not in json.dumps(result.json())

    with pytest.raises(TargetNotEmpty):
        place.restore(source="pg", to="env:TARGET_URL")
    file = tmp_path / "url"
    file.write_text(target + "\n")
    with pytest.raises(TargetNotEmpty):
        place.restore(to=f"file:{file}")


def test_restore_into_a_new_database_on_the_same_server(place, server, leads):
    place.backup()
    new = new_name(leads)
    place.restore(to_new_database=new)
    assert run(server.url(new).reveal(), "SELECT count(*) FROM leads") == [(500,)]
    with pytest.raises((TargetNotEmpty, SourceError)):
        place.restore(to_new_database=new)


def test_one_table_into_another_database_or_as_sql(place, server, leads, tmp_path):
    place.backup()
    new = new_name(leads)
    place.restore(source="pg", to_new_database=new, tables=("public.users",))
    assert run(server.url(new).reveal(), "SELECT count(*) FROM users") == [(20,)]
    place.restore(source="pg", tables=("public.users",), sql=tmp_path / "users.sql")
    assert "user 20" in (tmp_path / "users.sql").read_text()


def test_everything_at_once_the_database_new_or_as_sql(place, server, leads, tmp_path):
    place.backup()
    new = new_name(leads)
    result = place.restore(to=str(tmp_path / "one"), to_new_database=new)
    assert result.clean
    assert run(server.url(new).reveal(), "SELECT count(*) FROM leads") == [(500,)]
    assert (tmp_path / "one" / "app" / "dev.db").exists()

    result = place.restore(to=str(tmp_path / "two"))
    text = tmp_path / "two" / "pg" / "database.sql"
    assert result.sources["pg"].to == str(text)
    assert "CREATE TABLE public.leads" in text.read_text()
    assert (tmp_path / "two" / "uploads" / "logo.svg").exists()


def test_a_password_on_the_command_line_is_refused_and_not_repeated(place, leads):
    place.backup()
    for url in (leads, f"postgresql://127.0.0.1/x?password={'hunter2'}"):
        with pytest.raises(UsageError) as caught:
            place.restore(source="pg", to=url)
        assert "password" in caught.value.message
        for secret in (leads, "hunter2"):
            assert secret not in caught.value.message + caught.value.hint
    with pytest.raises(UsageError):
        place.restore(source="pg", to="/some/folder")


def test_the_password_is_nowhere_in_the_vault_or_what_is_told(place, server, monkeypatch, leads):
    password = server.password.reveal()
    assert password in leads
    told = json.dumps(place.backup().json()) + json.dumps(place.verify().json())
    vault = place.vault()
    told += json.dumps(vault.read(vault.find("production")).sources)
    assert password not in told
    monkeypatch.setenv("LEADS_URL", leads.replace(password, "wrong-" + password))
    failed = place.backup()
    assert failed.sources["pg"].status == "failed"
    assert password not in json.dumps(failed.json()) + str(place.progress.warnings)


def test_a_server_that_is_away_costs_only_its_own_source(place, monkeypatch):
    monkeypatch.setenv("LEADS_URL", f"postgresql://postgres@127.0.0.1:{free_port()}/leads")
    result = place.backup()
    assert {name: source.status for name, source in result.sources.items()} == {
        "uploads": "complete",
        "app": "complete",
        "pg": "failed",
    }


def psql(server, database, script):
    address = server.address(database)
    done = subprocess.run(
        [server.programs.path("psql") if Path(server.programs.path("psql")).exists() else "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1"],
        input=script,
        env=address.environment(),
        capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()


def test_a_portable_copy_made_by_a_writer_is_restored_by_gunzip_and_psql(place, server, leads, tmp_path):
    key = tmp_path / "writer.key"
    place.vault().add_slot(key, role="writer", label="host", now=place.clock.now())
    place.policy_key(key)
    assert place.backup(tier="weekly").portable == ("database.sql.gz",)
    folder = place.folder / "vault" / place.listed()[0].folder
    subprocess.run(["sha256sum", "-c", "--quiet", "database.sql.gz.sha256"], cwd=folder, check=True)
    new = new_name(leads)
    run(server.url().reveal(), f"CREATE DATABASE {new}")
    psql(server, new, gzip.decompress((folder / "database.sql.gz").read_bytes()))
    assert run(server.url(new).reveal(), "SELECT count(*), sum(amount) FROM leads") == [(500, run(leads, "SELECT sum(amount) FROM leads")[0][0])]  # fmt: skip


def test_an_export_has_the_four_of_the_strategy(place, server, leads, tmp_path):
    place.backup()
    export(place.loaded, ExportRequest("production", "pg", tmp_path / "out"), Context())
    metadata = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert {"timestamp", "database", "size", "checksum"} <= metadata.keys()
    assert metadata["database"] == parse(Secret(leads)).database
    assert metadata["size"] == (tmp_path / "out" / "database.sql.gz").stat().st_size
    subprocess.run(["sha256sum", "-c", "--quiet", "database.sql.gz.sha256"], cwd=tmp_path / "out", check=True)
