"""Every exit code of docs/reference/exit-codes.md, met the way a user meets it, each with a hint."""

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest


def failed(ran, code: int, kind: str) -> dict:
    """The error document, checked against the exit code; the message and the hint are on standard error too."""
    assert ran.code == code, ran.err
    error = ran.json()["error"]
    assert error["kind"] == kind
    assert error["exit_code"] == code
    assert error["message"] in ran.err
    assert f"→ {error['hint']}" in ran.err
    return error


def test_0_when_all_is_done(ready):
    assert ready("backup").code == 0


def test_1_when_a_restore_would_overwrite(ready):
    ready("backup")
    target = ready.project.folder / "uploads"
    error = failed(
        ready("restore", "production", "--source", "uploads", "--to", str(target), "--json"), 1, "TargetNotEmpty"
    )
    assert str(target) in error["message"]
    assert (target / "2026" / "offer.txt").exists()


def test_1_when_the_only_source_is_gone(keepwell):
    project = keepwell.project
    keepwell("init", "--yes", "--store", str(project.vault), "--key-file", str(project.key), "--sqlite", "dev.db")
    (project.folder / "dev.db").unlink()
    error = failed(keepwell("backup", "--json"), 1, "SourceError")
    assert "dev.db" in error["message"]
    assert keepwell("list", "--json").json() == []


def test_1_when_check_finds_damage_and_names_the_object_and_the_backup(ready):
    backup = ready("backup", "--json").json()["backup"]
    pack = next((ready.project.vault / "packs").glob("*/*"))
    pack.chmod(0o600)
    pack.write_bytes(pack.read_bytes()[:-1] + b"x")
    ran = ready("check", "--data", "--json")
    assert ran.code == 1
    document = ran.json()
    assert not document["passed"]
    assert document["affected"] == [backup]
    assert any(pack.name in finding["what"] for finding in document["findings"])


def test_1_when_doctor_finds_something_to_mend(ready):
    shutil.rmtree(ready.project.folder / "uploads")
    ran = ready("doctor", "--json")
    assert ran.code == 1
    (bad,) = [entry for entry in ran.json()["diagnoses"] if entry["state"] == "fail"]
    assert bad["area"] == "source production/uploads"
    assert bad["mend"]


@pytest.mark.parametrize(
    "args",
    [
        ["lst"],
        ["list", "--nonsense"],
        ["show"],
        ["list", "nowhere"],
        ["backup", "nowhere"],
        ["backup", "--tier", "hourly"],
        ["backup", "--source", "nothing"],
        ["show", "production@latest"],
        ["show", "production@yesterday"],
        ["verify", "production", "--level", "half"],
        ["check", "--share", "half"],
        ["check", "--data", "--share", "1/3"],
        ["prune", "--undo", "--dry-run"],
        ["prune", "nowhere"],
        ["restore", "production"],
        ["key", "export"],
        ["key", "frob"],
        ["key", "export", "--to", "x.key", "--role", "owner"],
        ["key", "add"],
        ["demo", "--rows", "0"],
    ],
    ids=" ".join,
)
def test_2_when_the_command_line_asks_for_what_does_not_exist(ready, args):
    ran = ready(*args, "--json")
    assert ran.code == 2, ran.err
    assert ran.json()["error"]["exit_code"] == 2
    assert "Error: " in ran.err


def test_2_without_a_command_shows_the_help(keepwell):
    ran = keepwell()
    assert ran.code == 2
    assert "restore" in ran.err
    assert not ran.out


def test_3_when_one_source_failed_and_the_others_are_safe(ready):
    (ready.project.folder / "dev.db").unlink()
    ran = ready("backup", "--json")
    assert ran.code == 3
    document = ran.json()
    assert document["status"] == "incomplete"
    assert document["sources"]["app"]["status"] == "failed"
    assert document["sources"]["uploads"]["status"] == "complete"
    assert ready("list", "--json").json()[0]["status"] == "incomplete"
    back = ready.project.folder / "back"
    assert ready("restore", "production", "--source", "uploads", "--to", str(back)).code == 0
    assert (back / "2026" / "offer.txt").exists()


@pytest.mark.slow
def test_4_when_a_proof_fails(ready):
    ready.project.rewrite(
        '#critical_tables = ["users"]',
        'checks = [{ name = "nobody is there", sql = "select count(*) from users", expect = "= 0" }]',
    )
    ready("backup")
    ran = ready("verify", "production", "--json")
    assert ran.code == 4, ran.err
    document = ran.json()
    assert not document["passed"]
    assert "nobody is there" in json.dumps(document["sources"]["app"]["checks"])
    assert "nobody is there" in ready("verify", "production").out
    assert ready("list", "--json").json()[0]["proven"] is False
    assert ready("status", "--json").json()[0]["state"] == "fail"


def test_5_when_the_policy_has_a_typo_with_its_line(ready):
    ready.project.rewrite("schedule =", "shedule =")
    line = next(n for n, t in enumerate(ready.project.policy.read_text().splitlines(), 1) if t.startswith("shedule"))
    error = failed(ready("list", "--json"), 5, "PolicyError")
    assert f"keepwell.toml:{line}:" in error["message"]
    assert "schedule" in error["message"]


def test_5_when_there_is_no_policy(keepwell):
    assert "keepwell init" in failed(keepwell("backup", "--json"), 5, "PolicyError")["hint"]


def test_6_when_the_store_is_not_there(ready):
    ready.project.vault.rename(ready.project.folder / "unmounted")
    for command in (["list"], ["backup"], ["check"], ["key", "list"], ["status"], ["show", "production"]):
        failed(ready(*command, "--json"), 6, "StoreError")
    assert not ready.project.vault.exists()


def test_7_when_the_key_file_is_missing(ready):
    ready.project.key.unlink()
    error = failed(ready("list", "--json"), 7, "KeyMissing")
    assert str(ready.project.key) in error["message"]


def test_7_when_the_key_is_of_another_vault(ready, tmp_path):
    other = ["--policy", str(tmp_path / "other.toml"), "--key-file", str(tmp_path / "other.key")]
    assert ready("init", "--yes", *other, "--store", str(tmp_path / "other"), "--files", "uploads").code == 0
    failed(ready("--key-file", str(tmp_path / "other.key"), "list", "--json"), 7, "KeyWrong")


def test_7_when_a_writer_key_is_asked_to_read(ready, tmp_path):
    writer = ["--key-file", str(tmp_path / "writer.key")]
    assert ready("key", "export", "--to", writer[1]).code == 0
    assert ready(*writer, "backup").code == 0
    assert ready(*writer, "list").code == 0
    shown = ready(*writer, "show", "production", "--json").json()
    assert shown["key"] == "writer"
    assert "tables" not in shown["sources"]["app"]
    back = ["restore", "production", "--to", str(tmp_path / "back"), "--json"]
    failed(ready(*writer, *back), 7, "KeyCannotRead")
    failed(ready(*writer, "key", "add", "--to-file", str(tmp_path / "reader.key"), "--json"), 7, "KeyCannotRead")
    assert not (tmp_path / "reader.key").exists()


def test_7_when_the_last_reader_would_be_removed(ready):
    (slot,) = ready("key", "list", "--json").json()
    failed(ready("key", "remove", slot["slot"], "--json"), 7, "KeyWrong")
    assert ready("list").code == 0


def test_7_when_a_new_key_file_would_overwrite(ready):
    before = ready.project.key.read_bytes()
    failed(ready("key", "add", "--to-file", str(ready.project.key), "--json"), 7, "KeyMissing")
    assert ready.project.key.read_bytes() == before


def test_8_while_another_backup_of_the_environment_runs_here(ready):
    ready("backup")
    (lock,) = Path(ready.project.environ["XDG_CACHE_HOME"]).rglob("backup-production.lock")
    handle = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        failed(ready("backup", "--json"), 8, "Busy")
    finally:
        os.close(handle)
    assert ready("backup").code == 0


def test_an_unexpected_fault_is_told_shortly_and_without_its_text(ready, monkeypatch):
    def broken(*_args, **_more):
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr("keepwell.vault.vault.Vault.scan", broken)
    error = failed(ready("list", "--json"), 1, "Unexpected")
    assert "RuntimeError" in error["message"]
    ran = ready("list")
    assert "hunter2" not in ran.out + ran.err
    assert "Traceback" not in ran.err
    monkeypatch.setenv("KEEPWELL_DEBUG", "1")
    assert "Traceback" in ready("list").err
