"""Ctrl-C, SIGTERM and a closed reader in the middle of real work; terminals and locales of all kinds."""

import json
import os
import signal
import subprocess

import pytest

from support.program import PROGRAM

pytestmark = pytest.mark.slow


def as_from_a_terminal():
    """Whoever runs the tests in the background or under nohup has these ignored, and children inherit that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(project, *args, **more):
    return subprocess.Popen(
        [*PROGRAM, *args],
        cwd=project.folder,
        env=project.environ | more.pop("environ", {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=as_from_a_terminal,  # noqa: PLW1509 - the tests have one thread
        **more,
    )


def packs(project):
    return list((project.vault / "packs").glob("*/*"))


def wait_for_new_pack(project, process, known):
    """Returns in the middle of a backup: some of its data is in the store, and nothing is committed."""
    while len(packs(project)) == len(known):
        with pytest.raises(subprocess.TimeoutExpired):  # it must not end before
            process.wait(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_of_a_backup_ends_it_with_130_and_loses_nothing(project, number):
    assert project.run("backup").code == 0
    before = project.run("list", "--json").json()
    known = packs(project)
    with (project.folder / "uploads" / "big").open("wb") as file:
        for _ in range(200):
            file.write(os.urandom(1 << 20))
    process = start(project, "backup", "--json")
    wait_for_new_pack(project, process, known)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert json.loads(out)["error"]["kind"] == "Interrupted"
    assert b"no committed backup was touched" in err
    assert b"Traceback" not in err
    assert project.run("list", "--json").json() == before
    assert project.run("check", "--data").code == 0
    (project.folder / "uploads" / "big").unlink()
    assert project.run("backup").code == 0


def test_a_signal_while_it_waits_for_a_command_ends_it_too(project):
    text = project.policy.read_text().replace(f'file = "{project.key}"', 'passphrase = { command = ["sleep", "50"] }')
    project.policy.write_text(text)
    project.rewrite('["sleep", "50"]', '["sh", "-c", "echo up > started; exec sleep 50"]')
    process = start(project, "list")
    while not (project.folder / "started").exists():
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in err


def test_a_signal_that_the_caller_ignores_stays_ignored(project):
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *PROGRAM, "list", "--json"],
        cwd=project.folder,
        env=project.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=30)
    assert process.returncode in {0, -signal.SIGHUP}  # the shell may not have set its trap yet
    assert process.returncode or json.loads(out) == []


def test_a_reader_that_goes_away_is_no_crash(project):
    project.run("backup")
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [*PROGRAM, "list"], cwd=project.folder, env=project.environ, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err == b""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_of_any_bytes_come_through_in_any_locale(project, encoding):
    raw = os.fsencode(project.folder) + b"/back\xff"
    assert project.run("backup", PYTHONIOENCODING=encoding).code == 0
    assert "\u2192" in project.run("show", "nowhere", PYTHONIOENCODING="utf-8").err
    assert "->" in project.run("show", "nowhere", PYTHONIOENCODING="ascii").err
    for more in ([], ["--json"]):
        target = raw + (b"1" if more else b"0")
        done = subprocess.run(
            [*PROGRAM, "restore", "production", "--source", "uploads", "--to", target, *more],
            cwd=project.folder,
            env=project.environ | {"PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert os.path.exists(target + b"/2026/offer.txt")
        if more:
            assert os.fsencode(json.loads(done.stdout)["sources"]["uploads"]["to"]) == target
        else:
            assert b"udcff" in done.stdout


def test_progress_is_quiet_where_nobody_watches(project):
    ran = project.run("backup")
    assert ran.code == 0
    assert ran.err == ""
