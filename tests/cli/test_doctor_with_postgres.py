"""`keepwell doctor` and a PostgreSQL source: what stands in the way of a backup, said before it does."""

import psycopg
import pytest

from keepwell.core.streams import Context
from keepwell.demo.server import demo_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server():
    with demo_server(Context()) as running:
        running.create_database()
        with psycopg.connect(running.url, autocommit=True) as connection:
            connection.execute('create table "Leads" (id int)')
            connection.execute("create role weak login")
        yield running


@pytest.fixture
def doctor(keepwell, monkeypatch):
    where = ["--store", str(keepwell.project.vault), "--key-file", str(keepwell.project.key)]
    assert keepwell("init", "--yes", *where, "--postgres-env", "DATABASE_URL").code == 0

    def look(url):
        monkeypatch.setenv("DATABASE_URL", url)
        ran = keepwell("doctor", "--json")
        return ran.code, [entry for entry in ran.json()["diagnoses"] if entry["area"] == "source production/app"]

    return look


def test_a_server_that_answers_with_programs_that_fit(doctor, server):
    code, found = doctor(server.url)
    assert code == 0
    assert all(entry["state"] == "ok" for entry in found)
    assert any("pg_dump" in entry["what"] for entry in found)


def test_tables_that_cannot_be_read_are_counted_and_one_is_named(doctor, server):
    code, found = doctor(server.url.replace("user=postgres", "user=weak"))
    assert code == 1
    (bad,) = [entry for entry in found if entry["state"] == "fail"]
    assert '"Leads"' in bad["what"]
    assert "pg_read_all_data" in bad["mend"]


def test_a_server_that_is_not_there(doctor):
    code, found = doctor("postgresql://nobody:geheim@127.0.0.1:1/leads")
    assert code == 1
    assert found[0]["state"] == "fail"
    assert found[0]["mend"]
    assert "geheim" not in str(found)


def test_a_variable_that_is_not_set(doctor):
    code, found = doctor("")
    assert code == 1
    assert "DATABASE_URL" in found[0]["what"]
