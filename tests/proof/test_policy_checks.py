"""The policy's own questions: which table is meant, and commands that fail, hang or cannot run."""

import os
import sqlite3
import time
from contextlib import closing

import pytest

from keepwell.core.clock import SystemClock
from keepwell.core.errors import Interrupted
from keepwell.core.secrets import Secret
from keepwell.core.streams import Context
from keepwell.policy.models import Check
from keepwell.proof import checks
from keepwell.proof.checks import critical, find_tables, place_of
from keepwell.sources import sqlite
from keepwell.sources.postgres.spec import Target as Database

KNOWN = ["public.leads", "archive.leads", 'crm."Users"', "crm.deals", "public.Odd"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("public.leads", ["public.leads"]),
        ("leads", ["public.leads"]),  # as a session with the usual search path would find it
        ("archive.leads", ["archive.leads"]),
        ("deals", ["crm.deals"]),
        ("Users", ['crm."Users"']),
        ('"Users"', ['crm."Users"']),
        ("crm.Users", ['crm."Users"']),
        ("users", ['crm."Users"']),
        ("eads", []),
        ("nobody", []),
    ],
)
def test_a_table_is_found_as_people_write_it(name, found):
    assert find_tables(name, KNOWN) == found


def test_a_name_that_could_mean_two_tables_passes_for_neither():
    (outcome,) = critical(["deals"], {"crm.deals": 5, "shop.deals": 5}, {})
    assert not outcome.passed
    assert "crm.deals, shop.deals" in outcome.problem


def test_a_partitioned_table_has_the_rows_of_its_partitions():
    facts = {"partitioned": {"public.events": {"oid": 1, "tables": ["public.e1", "public.e2"], "partitioned": []}}}
    rows = {"public.e1": 0, "public.e2": 3}
    assert critical(["events"], rows, facts)[0].passed
    assert not critical(["events"], rows | {"public.e2": 0}, facts)[0].passed


@pytest.fixture
def target(tmp_path):
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection, connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("INSERT INTO t VALUES (NULL)")
    return sqlite.Target(tmp_path / "x.db")


def run(check, target, tmp_path, context=None):
    return checks.run(Check(**check), sqlite, target, tmp_path, {"KEEPWELL_SOURCE": "app"}, context or Context())


def command(*arguments):
    return {"name": "own", "command": arguments}


@pytest.mark.parametrize(
    ("sql", "expect", "passed", "problem"),
    [
        ("select count(*) from t", "= 1", True, ""),
        ("select count(*) from t", "> 1", False, "the answer is 1; expected > 1"),
        ("select a from t", "= 0", False, "the answer is null"),
        ("select a from t where 0", "= 0", False, "the answer is null"),
        ("select nonsense", "= 0", False, "no such column"),
        ("delete from t", "= null", False, "readonly"),
    ],
)
def test_a_query(target, tmp_path, sql, expect, passed, problem):
    outcome = run({"name": "q", "sql": sql, "expect": expect}, target, tmp_path)
    assert outcome.passed is passed
    assert problem in outcome.problem
    assert outcome.json()["passed"] is passed


def test_a_command_is_told_where_the_restored_place_is_and_runs_in_the_policys_folder(target, tmp_path):
    script = 'test "$KEEPWELL_RESTORED" = "$0" && test "$KEEPWELL_SOURCE" = app && test "$PWD" = "$1"'
    assert run(command("sh", "-c", script, str(target.path), str(tmp_path.resolve())), target, tmp_path).passed


def test_the_place_of_a_database_is_its_url():
    assert place_of(Database(Secret("host=/tmp dbname=restored"))) == "host=/tmp dbname=restored"


def test_a_command_that_fails_is_quoted(target, tmp_path):
    outcome = run(command("sh", "-c", "echo one; echo two >&2; exit 7"), target, tmp_path)
    assert outcome.problem == "the command sh ended with exit status 7: one two"


def test_a_command_that_is_killed_has_not_passed(target, tmp_path):
    assert "exit status -9" in run(command("sh", "-c", "kill -9 $$"), target, tmp_path).problem


def test_a_command_that_does_not_end_is_stopped_with_all_that_it_started(target, tmp_path, monkeypatch):
    class Fast(SystemClock):
        """An hour goes by with every look."""

        now_ = 0.0

        def monotonic(self):
            self.now_ += 1000
            return self.now_

    script = "sleep 300 & echo $! > pid; wait"
    outcome = run(command("sh", "-c", script), target, tmp_path, Context(clock=Fast()))
    assert "did not end within 3600 seconds" in outcome.problem
    if (tmp_path / "pid").exists():  # the shell may have been too slow to write it
        assert gone(int((tmp_path / "pid").read_text() or 0))


def test_an_interrupt_ends_a_command(target, tmp_path):
    begun = tmp_path / "begun"
    with pytest.raises(Interrupted):
        run(command("sh", "-c", f"echo $$ > {begun}; sleep 300"), target, tmp_path, Context(cancelled=begun.exists))


def gone(pid):
    """Whether the process is dead, or dead and not yet taken away."""
    for _ in range(500):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        os.sched_yield()
        time.sleep(0.01)
    return False
