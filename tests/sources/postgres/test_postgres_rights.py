"""Owners, privileges and policies: put back where the roles exist, reported where not."""

import subprocess

import psycopg
import pytest

from keepwell.core.errors import SourceError
from keepwell.core.secrets import Secret
from keepwell.core.streams import Context, Discard, MemoryStreams
from keepwell.sources import postgres
from keepwell.sources.base import RestoreRequest

pytestmark = pytest.mark.slow

OWNED = """
CREATE TABLE leads (id int PRIMARY KEY, email text, owner text);
INSERT INTO leads VALUES (1, 'a@b.c', 'kw_seller'), (2, 'd@e.f', 'kw_other');
CREATE SEQUENCE numbers; CREATE VIEW v AS SELECT 1 AS one; CREATE TYPE mood AS ENUM ('ok');
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE STATISTICS st ON id, email FROM leads;
ALTER TABLE leads OWNER TO kw_seller; ALTER SEQUENCE numbers OWNER TO kw_seller; ALTER VIEW v OWNER TO "KW Boss";
ALTER TYPE mood OWNER TO kw_seller; ALTER FUNCTION f() OWNER TO kw_seller; ALTER STATISTICS st OWNER TO kw_seller;
GRANT SELECT, INSERT ON leads TO "KW Boss"; GRANT UPDATE (email) ON leads TO kw_other;
GRANT SELECT ON leads TO kw_other WITH GRANT OPTION; SET ROLE kw_other; GRANT SELECT ON leads TO kw_reader; RESET ROLE;
REVOKE ALL ON FUNCTION f() FROM PUBLIC; GRANT USAGE ON SEQUENCE numbers TO PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE kw_seller GRANT SELECT ON TABLES TO kw_reader;
ALTER TABLE leads ENABLE ROW LEVEL SECURITY; ALTER TABLE leads FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON leads FOR SELECT TO kw_seller, kw_reader USING (owner = current_user OR email = 'it''s; me');
CREATE POLICY gone_only ON leads AS RESTRICTIVE TO kw_other USING (true);
CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM leads; ALTER MATERIALIZED VIEW mv OWNER TO kw_reader;
"""
ROLES = ("kw_seller", "kw_other", "kw_reader", '"KW Boss"')
PRIVILEGES = (
    "SELECT relname, relowner::regrole::text, relacl::text FROM pg_class WHERE relnamespace = 'public'::regnamespace "
    "UNION ALL SELECT polname, polcmd::text, polroles::regrole[]::text FROM pg_policy "
    "UNION ALL SELECT defaclrole::regrole::text, defaclobjtype::text, defaclacl::text FROM pg_default_acl ORDER BY 1, 2"
)


@pytest.fixture
def owned(server):
    for role in ROLES:
        server.run(f"CREATE ROLE {role}")
    try:
        database = server.database("SELECT lo_create(77)")
        server.run("ALTER LARGE OBJECT 77 OWNER TO kw_seller; GRANT SELECT ON LARGE OBJECT 77 TO kw_reader", database)
        server.run("GRANT USAGE ON SCHEMA public TO kw_reader;" + OWNED, database)
        yield database
    finally:
        server.clean()
        for role in ROLES:
            server.run(f"DROP ROLE IF EXISTS {role}")


def test_owners_grants_and_policies_come_back(server, owned):
    then, now, restored, report = server.there_and_back(owned)
    assert report.warnings == []
    assert postgres.compare(then, now) == []
    assert server.ask(PRIVILEGES, restored) == server.ask(PRIVILEGES, owned)
    assert set(then["roles"]) == {"kw_seller", "kw_other", "kw_reader", "KW Boss", "postgres"}


def test_in_a_sandbox_nothing_is_missing(server, owned):
    then, streams = server.capture(owned)
    with postgres.sandbox(then, Context()) as target:
        report = postgres.restore(then, streams, target, RestoreRequest(), Context())
        now = postgres.capture(postgres.respec(target, then, None), Discard(), Context())
        assert report.warnings == []
        assert postgres.compare(then, now) == []
        assert postgres.examine(target, then, Context()) == []


def test_missing_roles_are_named_and_everything_else_comes_back(server, owned):
    then, streams = server.capture(owned)
    server.clean()
    server.run('DROP ROLE kw_other; DROP ROLE "KW Boss"')
    restored, report = server.restore(then, streams)
    text = "\n".join(report.warnings)
    assert 'the role "kw_other" does not exist here' in text
    assert 'the role "KW Boss" does not exist here' in text
    assert 'public.v OWNER TO "KW Boss"' in text
    assert "POLICY gone_only" in text
    # It belongs to a role that kw_other had let read the table.
    assert "REFRESH MATERIALIZED VIEW public.mv" in text
    findings = postgres.examine(postgres.Target(server.url(restored)), then, Context())
    assert ("public.mv", "the materialized view could not be filled") in [(f.what, f.problem) for f in findings]
    assert server.ask("SELECT relname FROM pg_class WHERE relowner = 'kw_seller'::regrole AND relkind = 'r'", restored)
    assert server.ask("SELECT polname, polroles::regrole[]::text FROM pg_policy", restored) == [
        ("own", "{kw_seller,kw_reader}")
    ]
    assert server.ask("SELECT count(*) FROM leads", restored) == [(2,)]


def test_a_policy_for_several_roles_is_kept_for_those_that_exist(server, owned):
    then, streams = server.capture(owned)
    server.clean()
    server.run("DROP ROLE kw_reader")
    restored, report = server.restore(then, streams)
    assert ("own", "{kw_seller}") in server.ask("SELECT polname, polroles::regrole[]::text FROM pg_policy", restored)
    assert any("for kw_reader" in warning for warning in report.warnings)


@pytest.fixture
def app_role(server):
    server.run("CREATE ROLE kw_app LOGIN CREATEDB")
    yield "kw_app"
    server.clean()
    server.run("DROP ROLE kw_app")


def test_a_restore_by_an_ordinary_role_says_what_it_may_not_do(server, app_role):
    database = server.database(
        "CREATE EXTENSION pg_trgm; CREATE TABLE t (id serial PRIMARY KEY, x text); INSERT INTO t (x) VALUES ('a');"
        "CREATE VIEW v AS SELECT * FROM t"
    )
    then, streams = server.capture(database)
    name = f"restored_{next(server.numbers)}"
    target = postgres.Target(server.login(app_role, name), create=True)
    report = postgres.restore(then, streams, target, RestoreRequest(), Context())
    assert server.ask("SELECT id, x FROM t", name) == [(1, "a")]
    assert server.ask("SELECT relowner::regrole::text FROM pg_class WHERE relname = 't'", name) == [("kw_app",)]
    assert any("OWNER TO postgres" in warning for warning in report.warnings)


def test_a_role_that_may_not_read_a_table_is_told_so(server, app_role):
    database = server.database("CREATE TABLE secret (x int); CREATE TABLE open (x int); GRANT SELECT ON open TO kw_app")
    with pytest.raises(SourceError, match="permission denied for table secret") as failed:
        postgres.capture(postgres.Spec(server.login(app_role, database)), MemoryStreams(), Context())
    assert "pg_read_all_data" in failed.value.hint


def test_a_role_that_row_security_hides_rows_from_is_told_so(server, app_role):
    database = server.database(
        "CREATE TABLE t (x int); INSERT INTO t VALUES (1), (2); ALTER TABLE t ENABLE ROW LEVEL SECURITY; "
        "CREATE POLICY one ON t USING (x = 1); GRANT SELECT ON t TO kw_app"
    )
    with pytest.raises(SourceError, match="row-level security") as failed:
        postgres.capture(postgres.Spec(server.login(app_role, database)), MemoryStreams(), Context())
    assert "BYPASSRLS" in failed.value.hint


def test_roles_are_saved_without_passwords(server):
    server.run("DROP ROLE IF EXISTS kw_secretive; CREATE ROLE kw_secretive LOGIN PASSWORD 'do not save me'")
    facts, streams = server.capture(server.database())
    text = bytes(streams.data["globals"])
    server.run("DROP ROLE kw_secretive")
    assert b"CREATE ROLE kw_secretive" in text
    assert b"SCRAM" not in text
    assert b"PASSWORD" not in text
    assert facts["globals"] == "all roles, without passwords"


def test_a_wrong_password_is_an_error_that_does_not_show_it(server):
    url = Secret(f"postgresql://postgres:Wr0ng%21pass@127.0.0.1:{server.port}/postgres")
    with pytest.raises(SourceError, match="password authentication failed") as failed:
        postgres.capture(postgres.Spec(url), MemoryStreams(), Context())
    shown = (
        f"{failed.value} {failed.value.hint} {failed.value!r} {failed.value.__cause__!r} {failed.value.__context__!r}"
    )
    assert "Wr0ng" not in shown
    assert "password" in failed.value.hint


def test_the_right_password_reaches_pg_dump_and_nobody_else(server, monkeypatch):
    database = server.database("CREATE TABLE t (x int)")
    password = server.password.reveal()
    seen = []

    class Recorded(subprocess.Popen):
        def __init__(self, arguments, **options):
            seen.append(" ".join(arguments))
            super().__init__(arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    facts = postgres.capture(postgres.Spec(server.tcp_url(database)), MemoryStreams(), Context())
    assert "public.t" in facts["tables"]
    assert any("pg_dump" in line for line in seen)
    assert not any(password in line for line in seen)
    assert password not in str(facts)


def test_server_is_reachable_with_the_password_only_over_tcp(server):
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{server.port}/postgres")
