import sys
from pathlib import Path

import pytest

from keepwell.core.errors import KeyMissing, PolicyError, SourceError
from keepwell.policy import secret
from keepwell.policy.secret import SecretRef

BASE = Path("/")


def python(code: str) -> SecretRef:
    return SecretRef(command=(sys.executable, "-c", code))


def test_a_variable_is_read_when_it_is_needed():
    ref = SecretRef(env="DATABASE_URL")
    assert ref.resolve(BASE, environ={"DATABASE_URL": "postgresql:///leads"}).reveal() == "postgresql:///leads"


def test_the_process_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("KEEPWELL_TEST_SECRET", "hush")
    assert SecretRef(env="KEEPWELL_TEST_SECRET").resolve(BASE).reveal() == "hush"


@pytest.mark.parametrize("environ", [{}, {"PASSPHRASE": ""}])
def test_an_unset_or_empty_variable_is_an_error_that_names_it(environ):
    with pytest.raises(PolicyError, match="the passphrase is to be in the environment variable PASSPHRASE") as caught:
        SecretRef(env="PASSPHRASE").resolve(BASE, what="the passphrase", environ=environ)
    assert caught.value.hint


def test_a_file_is_relative_to_the_policy_and_loses_only_line_ends(tmp_path):
    (tmp_path / "secret").write_text(" two words \r\n")
    assert SecretRef(file="secret").resolve(tmp_path).reveal() == " two words "
    assert SecretRef(file=str(tmp_path / "secret")).resolve(BASE).reveal() == " two words "


def test_a_file_in_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "secret").write_text("hush")
    assert SecretRef(file="~/secret").resolve(BASE).reveal() == "hush"


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b"\xff"), "not UTF-8"),
        (lambda path: path.write_text("\n"), "is empty: file secret gave nothing"),
    ],
)
def test_a_file_that_holds_no_secret_is_an_error(tmp_path, make, what):
    make(tmp_path / "secret")
    with pytest.raises(PolicyError, match=what):
        SecretRef(file="secret").resolve(tmp_path)


def test_a_command_runs_without_a_shell_in_the_folder_of_the_policy(tmp_path):
    ref = python("import os; print(os.getcwd() + ' $HOME; true')")
    assert ref.resolve(tmp_path).reveal() == f"{tmp_path} $HOME; true"


def test_a_failing_command_shows_what_it_said_but_no_secret():
    ref = SecretRef(
        command=(
            sys.executable,
            "-c",
            "import sys; print('s3cret'); print('vault is locked (s3cret)', file=sys.stderr); sys.exit(3)",
            "--token=t0ken",
        )
    )
    with pytest.raises(PolicyError, match=r"failed with exit status 3: vault is locked \(\*\*\*\)") as caught:
        ref.resolve(BASE)
    shown = str(caught.value) + caught.value.hint
    assert "s3cret" not in shown
    assert "t0ken" not in shown
    assert caught.value.__cause__ is None


def test_a_command_cannot_ask_questions():
    with pytest.raises(PolicyError, match="EOFError"):
        python("input('passphrase? ')").resolve(BASE)


def test_a_command_that_hangs_is_stopped(monkeypatch):
    monkeypatch.setattr(secret, "COMMAND_SECONDS", 0.2)
    with pytest.raises(PolicyError, match="did not end within"):
        python("import time; time.sleep(60)").resolve(BASE)


def test_a_command_that_is_not_there_is_an_error():
    with pytest.raises(PolicyError, match="the command no-such-program cannot be run: No such file"):
        SecretRef(command=("no-such-program", "x")).resolve(BASE)


def test_a_command_that_prints_nothing_is_an_error():
    with pytest.raises(PolicyError, match="is empty"):
        python("pass").resolve(BASE)


def test_a_command_that_prints_bytes_is_an_error():
    with pytest.raises(PolicyError, match="not UTF-8"):
        python(r"import sys; sys.stdout.buffer.write(b'\xff')").resolve(BASE)


@pytest.mark.parametrize("kind", [SourceError, KeyMissing])
def test_the_caller_says_which_error_a_missing_secret_is(kind):
    for ref in (SecretRef(env="NO_SUCH_VARIABLE_HERE"), SecretRef(file="/no/such"), SecretRef(command=("/no/such",))):
        with pytest.raises(kind):
            ref.resolve(BASE, error=kind)


def test_a_reference_says_where_but_never_what(monkeypatch):
    monkeypatch.setenv("SECRET", "hush")
    assert str(SecretRef(env="SECRET")) == "environment variable SECRET"
    assert str(SecretRef(file="a/b")) == "file a/b"
    assert str(SecretRef(command=("pass", "show", "leads"))) == "command pass"
    assert "hush" not in repr(SecretRef(env="SECRET").resolve(BASE))
