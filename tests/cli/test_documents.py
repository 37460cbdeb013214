"""The documents of --json have the keys that docs/reference/json.md promises, and nothing else is on standard output."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "json.md"


def documented(heading: str):
    """The example under a heading of the reference."""
    section = REFERENCE.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return json.loads(re.search(r"```json\n(.*?)```", section, re.DOTALL)[1])


OPEN = {"sources", "tables", "streams", "libraries", "portable", "seconds"}
"""Keys under which names are the user's own, or depend on the kind of source."""


def same_keys(real, example, where=""):
    """Both have the same keys at every level; the first entry of a list stands for all."""
    if isinstance(example, dict) and isinstance(real, dict):
        assert real.keys() == example.keys(), where
        for key, value in example.items():
            if key not in OPEN:
                same_keys(real[key], value, f"{where}.{key}")
    elif isinstance(example, list) and isinstance(real, list) and example and real:
        same_keys(real[0], example[0], f"{where}[0]")
    elif example is not None and real is not None:
        assert isinstance(real, type(example)) or {type(real), type(example)} <= {int, float}, where


@pytest.fixture
def backed(ready):
    assert ready("backup").code == 0
    return ready


def test_backup(ready):
    document = ready("backup", "--json").json()
    same_keys(document, documented("backup"))
    assert document["status"] == "complete"
    assert document["sources"]["app"]["tables"] == {"users": {"rows": 300}}
    assert document["sources"]["uploads"]["files"] == 1
    assert document["bytes"]["stored"] > 0


def test_list(backed):
    (entry,) = backed("list", "--json").json()
    same_keys([entry], documented("list"))
    assert entry["environment"] == "production"
    assert entry["proven"] is False
    assert backed("list", "production", "--json").json() == [entry]


def test_show(backed):
    document = backed("show", "production", "--json").json()
    same_keys(document, documented("show"))
    assert document["sources"]["app"]["tables"] == {"users": {"rows": 300}}
    assert document["key"] == "reader"


@pytest.mark.slow
def test_verify_and_what_status_and_list_make_of_it(backed):
    ran = backed("verify", "production", "--json")
    assert ran.code == 0, ran.err
    document = ran.json()
    same_keys(document, documented("verify"))
    assert document["passed"]
    assert document["sources"]["app"]["tables"]["users"] == {"rows": 300, "equal": True}
    assert backed("list", "--json").json()[0]["proven"] is True
    (status,) = backed("status", "--json").json()
    same_keys([status], documented("status"))
    assert status["state"] == "ok"
    assert status["proven"]["backup"] == document["backup"]
    assert status["recovery"]["seconds"] > 0


@pytest.mark.slow
def test_drill(backed):
    ran = backed("drill", "production", "--json")
    assert ran.code == 0, ran.err
    document = ran.json()
    same_keys(document, {**documented("drill"), "proof": documented("verify")})
    assert document["passed"]
    assert backed("list", "--json").json()[0]["proven"] is True


@pytest.mark.slow
def test_a_proof_of_a_part_passes_and_does_not_make_the_backup_proven(backed):
    ran = backed("verify", "production", "--source", "uploads", "--json")
    assert ran.code == 0, ran.err
    assert ran.json()["passed"]
    assert not ran.json()["proven"]
    assert backed("list", "--json").json()[0]["proven"] is False


@pytest.mark.slow
def test_status_names_the_newest_proven_backup_not_only_the_newest(backed):
    proven = backed("verify", "production", "--json").json()["backup"]
    newest = backed("backup", "--json").json()["backup"]
    (status,) = backed("status", "--json").json()
    assert status["newest"]["backup"] == newest
    assert status["proven"]["backup"] == proven


def test_restore_and_export(backed, tmp_path):
    ran = backed("restore", "production", "--to", str(tmp_path / "back"), "--json")
    assert ran.code == 0, ran.err
    same_keys(ran.json(), documented("restore"))
    assert (tmp_path / "back" / "uploads" / "2026" / "offer.txt").read_text() == "an offer\n"
    with closing(sqlite3.connect(tmp_path / "back" / "app" / "dev.db")) as database:
        assert database.execute("select count(*) from users").fetchone() == (300,)
    ran = backed("export", "production", "--source", "app", "--to", str(tmp_path / "out"), "--json")
    assert ran.code == 0, ran.err
    same_keys(ran.json(), documented("export"))
    assert Path(ran.json()["file"]).is_file()


def test_check(backed):
    document = backed("check", "--data", "--json").json()
    same_keys(document, documented("check"))
    assert document["passed"]
    assert document["depth"] == "bytes"


@pytest.mark.slow
def test_prune_removes_lists_and_brings_back(backed):
    backed("backup", "--tier", "daily")
    backed("backup", "--tier", "daily")
    backed.project.rewrite('daily = "30d"', "daily = 1")
    backed.project.rewrite('monthly = "30d"', "monthly = 1")
    before = backed("list", "--json").json()
    planned = backed("prune", "--dry-run", "--json").json()
    same_keys(planned, documented("prune"))
    assert planned["dry_run"]
    assert [entry["backup"] for entry in planned["removed"]] == [before[1]["backup"]]
    assert backed("list", "--json").json() == before
    done = backed("prune", "--json").json()
    assert done["removed"] == planned["removed"]
    assert len(backed("list", "--json").json()) == 2
    undone = backed("prune", "--undo", "--json").json()
    assert undone == {"undone": True, "backups": [before[1]["backup"]]}
    assert backed("list", "--json").json() == before


@pytest.mark.slow
def test_prune_says_which_source_could_no_longer_be_restored(backed):
    backed.project.rewrite("sources.app]", "sources.leads]")
    backed.project.rewrite('daily = "30d", weekly = "30d", monthly = "30d"', "daily = 1, weekly = 1, monthly = 1")
    for _ in range(2):
        assert backed("backup", "--tier", "monthly").code == 0
    document = backed("prune", "--dry-run", "--json").json()
    assert document["lost"][0]["sources"] == ["app"]
    assert "source app of production could not be restored" in backed("prune", "--dry-run").err


def test_keys(backed, tmp_path):
    added = backed("key", "add", "--to-file", str(tmp_path / "second.key"), "--label", "safe", "--json").json()
    same_keys(added, documented("key add, key export, key remove"))
    exported = backed("key", "export", "--to", str(tmp_path / "writer.key"), "--json").json()
    assert exported["role"] == "writer"
    slots = backed("key", "list", "--json").json()
    same_keys(slots, documented("key list"))
    assert sorted(slot["role"] for slot in slots) == ["reader", "reader", "writer"]
    assert backed("key", "remove", added["slot"], "--json").json()["slot"] == added["slot"]
    assert len(backed("key", "list", "--json").json()) == 2
    assert backed("--key-file", str(tmp_path / "second.key"), "list").code == 7


def test_doctor(ready):
    document = ready("doctor", "--json").json()
    same_keys(document, documented("doctor"))
    assert document["healthy"]
    areas = {entry["area"] for entry in document["diagnoses"]}
    assert {"policy", "store", "vault", "key", "clock", "space", "source production/app"} <= areas


def test_init(keepwell):
    where = ["--store", str(keepwell.project.vault), "--key-file", str(keepwell.project.key)]
    document = keepwell("init", "--yes", "--json", *where, "--sqlite", "dev.db").json()
    same_keys(document, documented("init"))


def test_version_and_schema(keepwell):
    same_keys(keepwell("version", "--json").json(), documented("version"))
    assert keepwell("schema", "--json").json()["title"] == "keepwell.toml"
    assert keepwell("schema").out == keepwell("schema", "--json").out


def test_schedules(ready, tmp_path):
    entries = ready("schedule", "list", "--json").json()
    same_keys(entries, documented("schedule list"))
    assert {entry["kind"] for entry in entries} >= {"backup", "verify", "prune", "check", "drill"}
    exported = ready("schedule", "export", "--cron", "--to", str(tmp_path / "cron.d"), "--json")
    same_keys(exported.json(), documented("schedule export"))
    assert (tmp_path / "cron.d" / "keepwell").read_text() == exported.json()["files"][0]["text"]
    assert all(text in exported.err for text in exported.json()["cannot"])


def test_errors(keepwell):
    ran = keepwell("list", "--json")
    assert ran.code == 5
    same_keys(ran.json(), documented("errors"))
    assert ran.json()["error"]["exit_code"] == 5
