"""The folder of uploads: everything that a backup of files has to get right is in it."""

import os
import zlib

import pytest

from keepwell.core.errors import SourceError, TargetNotEmpty, UsageError
from keepwell.demo import sample


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "uploads"
    assert sample.fill_uploads(folder, 24) == 29
    return folder


def test_the_oddities_of_real_folders_are_there(folder):
    link = folder / "latest"
    assert link.is_symlink()
    assert link.is_dir()
    assert list((folder / "inbox").iterdir()) == []
    assert (folder / "Verträge & Größen" / "empty.txt").stat().st_size == 0
    assert (folder / "tools" / "import.sh").stat().st_mode & 0o777 == 0o750
    assert any(not name.isascii() for name in os.listdir(link))
    assert b"r\xe9sum\xe9 (alt).txt" in os.listdir(os.fsencode(folder))


def test_scans_and_photographs_do_not_compress_and_texts_do(folder):
    for path in folder.glob("20*/*/*"):
        content = path.read_bytes()
        ratio = len(content) / len(zlib.compress(content))
        assert (ratio < 1.1) == (path.suffix in (".pdf", ".jpg")), path


def test_one_seed_makes_one_folder_times_included(folder, tmp_path):
    sample.fill_uploads(tmp_path / "again", 24)
    sample.fill_uploads(tmp_path / "other", 24, seed=2)
    assert sample.fingerprint_folder(tmp_path / "again") == sample.fingerprint_folder(folder)
    assert sample.fingerprint_folder(tmp_path / "other") != sample.fingerprint_folder(folder)


def test_a_day_adds_edits_removes_and_renames_what_it_says(folder):
    before = sample.fingerprint_folder(folder)
    changes = sample.change_uploads(folder, 0.1)
    after = sample.fingerprint_folder(folder)
    assert [len(part) for part in (changes.added, changes.changed, changes.removed, changes.renamed)] == [2, 2, 2, 2]
    assert set(after) - set(before) - set(changes.added) - {new for _, new in changes.renamed} <= {"2026/11"}
    assert set(before) - set(after) == {*changes.removed, *(old for old, _ in changes.renamed)}
    assert {name for name in before if name in after and before[name] != after[name]} == set(changes.changed)
    assert all(after[new] == before[old] for old, new in changes.renamed)


def test_days_can_follow_one_another(folder):
    names = set()
    for _ in range(4):
        added = sample.change_uploads(folder, 0.05).added
        assert not names & set(added)
        names |= set(added)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / ".htaccess").write_bytes(b"Require all granted"),
        lambda folder: (folder / "inbox").rmdir(),
        lambda folder: os.utime(folder / ".htaccess", (1, 1)),
        lambda folder: (folder / "tools" / "import.sh").chmod(0o644),
        lambda folder: ((folder / "latest").unlink(), (folder / "latest").symlink_to("inbox")),
    ],
    ids=["content", "empty folder", "time", "mode", "link"],
)
def test_the_fingerprint_sees_every_kind_of_difference(folder, damage):
    before = sample.fingerprint_folder(folder)
    damage(folder)
    assert sample.fingerprint_folder(folder) != before


def test_a_folder_with_content_is_not_touched(tmp_path):
    (tmp_path / "precious").write_bytes(b"mine")
    with pytest.raises(TargetNotEmpty):
        sample.fill_uploads(tmp_path, 5)
    assert os.listdir(tmp_path) == ["precious"]


def test_what_cannot_be_done_is_said(tmp_path, folder):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SourceError):
        sample.fill_uploads(tmp_path / "file" / "uploads", 5)
    with pytest.raises(SourceError):
        sample.fingerprint_folder(tmp_path / "missing")
    with pytest.raises(SourceError, match="too few"):
        sample.change_uploads(tmp_path)
    with pytest.raises(UsageError):
        sample.change_uploads(folder, 0.5)
    with pytest.raises(UsageError):
        sample.fill_uploads(tmp_path / "none", 0)
