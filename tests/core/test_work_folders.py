"""Work folders: gone at the end, and cleared by a later process where their own was killed; others are never touched."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keepwell.core import workfolder
from keepwell.core.workfolder import LOCK, WorkFolder, clear_the_dead

_HOLDER = """
import sys
from pathlib import Path
from keepwell.core.workfolder import WorkFolder
work = WorkFolder("sandbox", Path(sys.argv[1]))
(work.path / "data" / "deep").mkdir(parents=True)
(work.path / "data" / "deep" / "rows").write_bytes(bytes(1000))
(work.path / "data").chmod(0o500)
print(work.path, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def holder(parent: Path):
    """A process that holds a work folder, and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


def test_a_work_folder_is_private_and_gone_at_the_end(tmp_path):
    with WorkFolder("sqlite", tmp_path) as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith("keepwell-sqlite-")
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "locked").mkdir()
        (folder / "locked" / "file").write_text("x")
        (folder / "link").symlink_to(tmp_path)
        (folder / "locked").chmod(0o500)
    assert list(tmp_path.iterdir()) == []


def test_it_is_gone_also_where_the_work_failed(tmp_path):
    def work():
        with WorkFolder("sqlite", tmp_path) as folder:
            (folder / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_cleared_by_the_next_that_makes_one(tmp_path, monkeypatch):
    with holder(tmp_path) as (process, left):
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (left / "data" / "deep" / "rows").exists()
        monkeypatch.setattr(workfolder, "_CLEARED", set())
        with WorkFolder("postgres", tmp_path) as mine:
            assert list(tmp_path.iterdir()) == [mine]
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_process_that_lives_is_left_alone(tmp_path):
    with holder(tmp_path) as (_, theirs):
        assert clear_the_dead(tmp_path) == []
        assert (theirs / "data" / "deep" / "rows").exists()


def test_a_folder_of_this_process_is_left_alone(tmp_path):
    with WorkFolder("portable", tmp_path) as folder:
        assert clear_the_dead(tmp_path) == []
        assert folder.is_dir()


def test_folders_that_are_not_work_folders_are_never_touched(tmp_path):
    """A demo's folder, a folder whose lock has no name yet, a file, a link into somewhere else, another prefix."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / LOCK).touch()
    (tmp_path / "work").mkdir()
    for name in ("keepwell-demo", "keepwell-sandbox-making"):
        (tmp_path / "work" / name).mkdir()
        (tmp_path / "work" / name / "precious").touch()
    (tmp_path / "work" / "keepwell-sandbox-making" / f"{LOCK}.new").touch()
    (tmp_path / "work" / "keepwell-file").touch()
    (tmp_path / "work" / "keepwell-link").symlink_to(elsewhere)
    (tmp_path / "work" / "other").mkdir()
    (tmp_path / "work" / "other" / LOCK).touch()
    before = sorted(path for path in tmp_path.rglob("*"))
    assert clear_the_dead(tmp_path / "work") == []
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_folder_of_another_user_is_never_touched(tmp_path, monkeypatch):
    theirs = tmp_path / "keepwell-sandbox-theirs"
    theirs.mkdir()
    (theirs / LOCK).touch()
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    assert clear_the_dead(tmp_path) == []
    monkeypatch.undo()
    assert clear_the_dead(tmp_path) == [theirs]


def test_where_the_file_system_knows_no_locks_nothing_is_cleared_but_what_is_ones_own(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with WorkFolder("sqlite", tmp_path) as folder:
        assert list(folder.iterdir()) == []
        assert clear_the_dead(tmp_path) == []
        monkeypatch.undo()
        assert clear_the_dead(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_removal_that_was_killed_half_way_is_taken_up_again(tmp_path):
    with holder(tmp_path) as (process, left):
        process.kill()
        process.wait()
        (left / "data").chmod(0o700)
        (left / "data" / "deep" / "rows").unlink()
        assert (left / LOCK).exists()
    assert clear_the_dead(tmp_path) == [left]
