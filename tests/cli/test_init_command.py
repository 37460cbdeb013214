"""`keepwell init`: it asks or is told, makes what is missing, and changes nothing that is there."""

import os
import pty
import stat
import subprocess
import threading
from contextlib import closing

import pytest

from support.program import PROGRAM


def test_init_with_flags_makes_policy_vault_and_key(keepwell):
    project = keepwell.project
    where = ["--store", str(project.vault), "--key-file", str(project.key)]
    ran = keepwell("init", "--yes", "--json", *where, "--sqlite", "dev.db", "--files", "uploads")
    assert ran.code == 0
    document = ran.json()
    assert document["policy_written"]
    assert document["vault_created"]
    assert document["store"] == f"file://{project.vault}"
    assert document["key"] == {"kind": "keyfile", "role": "reader", "file": str(project.key)}
    assert stat.S_IMODE(project.key.stat().st_mode) == 0o600
    assert "AWAY FROM THIS MACHINE" in ran.err
    assert keepwell("list", "--json").json() == []


def test_the_written_policy_is_commented_and_names_the_sources(ready):
    text = ready.project.policy.read_text()
    assert "[environments.production.sources.app]" in text
    assert "[environments.production.sources.uploads]" in text
    assert text.count("#") > 10


def test_init_again_changes_nothing_and_makes_sure_that_the_key_fits(ready):
    before = {path: path.read_bytes() for path in ready.project.folder.rglob("*") if path.is_file()}
    ran = ready("init", "--yes", "--json")
    assert ran.code == 0
    assert not ran.json()["vault_created"]
    after = {path: path.read_bytes() for path in ready.project.folder.rglob("*") if path.is_file()}
    assert before == after


def test_init_makes_the_vault_and_key_of_a_policy_that_is_there(ready):
    project = ready.project
    text = project.policy.read_text().replace("vault.key", "other.key").replace("/vault", "/other")
    project.policy.write_text(text)
    assert ready("init", "--yes").code == 0
    assert (project.folder / "other" / "vault.json").exists()
    assert (project.folder / "other.key").exists()
    assert project.policy.read_text() == text


def test_flags_that_an_existing_policy_would_make_void_are_refused(ready):
    ran = ready("init", "--yes", "--store", "/elsewhere")
    assert ran.code == 2
    assert "--store" in ran.err


def test_without_terminal_and_yes_it_says_which_flags_are_missing(keepwell):
    ran = keepwell("init", "--files", "uploads")
    assert ran.code == 2
    assert "--store" in ran.err
    assert "--sqlite" not in ran.err
    assert "--yes" in ran.err
    assert not keepwell.project.policy.exists()


def test_yes_without_a_source_is_refused_before_anything_is_written(keepwell):
    ran = keepwell("init", "--yes", "--store", str(keepwell.project.vault))
    assert ran.code == 2
    assert "--postgres-env" in ran.err
    assert not keepwell.project.policy.exists()
    assert not keepwell.project.vault.exists()


def test_an_answer_that_makes_no_valid_policy_writes_none(keepwell):
    ran = keepwell("init", "--yes", "--store", "ftp://example.org/x", "--files", "uploads")
    assert ran.code == 5
    assert not keepwell.project.policy.exists()


def test_a_key_file_without_its_vault_is_never_overwritten(keepwell):
    project = keepwell.project
    project.key.write_text("the only key of another vault\n")
    ran = keepwell("init", "--yes", "--store", str(project.vault), "--key-file", str(project.key), "--files", "uploads")
    assert ran.code == 7
    assert project.key.read_text() == "the only key of another vault\n"
    assert "Do not delete" in ran.err


def test_a_vault_whose_key_is_elsewhere_is_an_error_not_a_new_key(ready):
    ready.project.key.rename(ready.project.folder / "moved.key")
    ran = ready("init", "--yes")
    assert ran.code == 7
    assert not ready.project.key.exists()


@pytest.mark.slow
def test_a_passphrase_vault_opens_with_the_passphrase_only(keepwell, monkeypatch):
    store = ["--store", str(keepwell.project.vault)]
    monkeypatch.setenv("VAULT_WORDS", "four old words here")
    assert keepwell("init", "--yes", *store, "--passphrase-env", "VAULT_WORDS", "--files", "uploads").code == 0
    assert keepwell("list").code == 0
    monkeypatch.setenv("VAULT_WORDS", "something else")
    ran = keepwell("list", "--json")
    assert ran.code == 7
    assert ran.json()["error"]["kind"] == "KeyWrong"
    assert "something else" not in ran.out + ran.err
    monkeypatch.delenv("VAULT_WORDS")
    ran = keepwell("list", "--json")
    assert ran.code == 7
    assert ran.json()["error"]["kind"] == "KeyMissing"


def test_two_kinds_of_key_at_once_are_refused(keepwell):
    ran = keepwell("init", "--yes", "--key-file", "k", "--passphrase-env", "X", "--store", "v", "--files", "uploads")
    assert ran.code == 2


@pytest.mark.slow
def test_at_a_terminal_it_asks_and_empty_answers_take_what_is_offered(bare):
    ours, theirs = pty.openpty()
    with closing(os.fdopen(ours, "r+b", buffering=0)) as terminal:
        process = subprocess.Popen(
            [*PROGRAM, "init", "--key-file", str(bare.key)],
            cwd=bare.folder,
            env=bare.environ,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        limit = threading.Timer(60, process.kill)  # one question too many would wait for ever
        limit.start()
        # Project, store, environment, PostgreSQL, SQLite, files, Git, write it?
        for answer in ("", "vault", "development", "", "dev.db", "uploads", "", ""):
            terminal.write(answer.encode() + b"\n")
        said = b""
        while True:
            try:
                block = terminal.read(4096)
            except OSError:  # the other end closed
                break
            if not block:
                break
            said += block
        limit.cancel()
        assert process.wait(60) == 0, said.decode()
    assert b"Where shall the backups be?" in said
    assert "[environments.development.sources.uploads]" in bare.policy.read_text()
    assert bare.run("list", "--json").json() == []
