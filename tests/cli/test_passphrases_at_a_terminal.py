"""`keepwell key add` asks for a passphrase twice, shows nothing of it, and believes only two that are equal."""

import os
import pty
import subprocess
from contextlib import closing

import pytest

from support.program import PROGRAM

pytestmark = pytest.mark.slow


def at_terminal(project, args, answers):
    """Exit code, and everything that stood on the terminal. Each answer is typed when its question is there."""
    ours, theirs = pty.openpty()
    with closing(os.fdopen(ours, "r+b", buffering=0)) as terminal:
        process = subprocess.Popen(
            [*PROGRAM, *args],
            cwd=project.folder,
            env=project.environ,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        said, waiting = b"", list(answers)
        while True:
            try:
                said += terminal.read(4096)
            except OSError:  # the other end closed
                break
            if waiting and said.endswith(waiting[0][0]):
                terminal.write(waiting.pop(0)[1] + b"\n")
        return process.wait(60), said.decode()


def test_the_same_twice_adds_a_slot_that_opens_the_vault(project):
    asked = [(b"New passphrase: ", b"four old words"), (b"The same again: ", b"four old words")]
    code, said = at_terminal(project, ["key", "add", "--label", "safe"], asked)
    assert code == 0, said
    assert "four old words" not in said
    project.rewrite(f'file = "{project.key}"', 'passphrase = { env = "WORDS" }')
    assert project.run("list", WORDS="four old words").code == 0
    assert project.run("list", WORDS="four old wards").code == 7


def test_two_that_differ_change_nothing(project):
    asked = [(b"New passphrase: ", b"four old words"), (b"The same again: ", b"four odd words")]
    code, said = at_terminal(project, ["key", "add"], asked)
    assert code == 7
    assert "differ" in said
    assert len(project.run("key", "list", "--json").json()) == 1


def test_an_empty_one_is_refused(project):
    code, said = at_terminal(project, ["key", "add"], [(b"New passphrase: ", b"")])
    assert code == 7
    assert "protects nothing" in said
