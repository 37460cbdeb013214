"""Copies that need no keepwell: what sha256sum, gunzip and tar say of them."""

import gzip
import json
import subprocess
import tarfile

import pytest

from keepwell.core.errors import TargetNotEmpty, UsageError
from keepwell.operations import export as module
from keepwell.operations.export import ExportRequest, export


@pytest.fixture
def saved(place):
    place.backup()
    return place


def exported(place, source, to):
    return export(place.loaded, ExportRequest("production@latest", source, to), place.context())


def test_a_database_with_metadata_and_checksum_as_the_strategy_has_it(saved, tmp_path):
    result = exported(saved, "app", tmp_path / "out")
    folder = tmp_path / "out"
    assert sorted(p.name for p in folder.iterdir()) == ["database.db.gz", "database.db.gz.sha256", "metadata.json"]
    subprocess.run(["sha256sum", "-c", "--quiet", "database.db.gz.sha256"], cwd=folder, check=True)
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["database"] == "dev.db"
    assert metadata["size"] == (folder / "database.db.gz").stat().st_size
    assert (folder / "database.db.gz.sha256").read_text().split() == [metadata["checksum"], "database.db.gz"]
    assert metadata["timestamp"].endswith("Z")
    assert metadata["backup"] == str(saved.listed()[0].id)
    (tmp_path / "back.db").write_bytes(gzip.decompress((folder / "database.db.gz").read_bytes()))
    assert saved.sql("SELECT count(*) FROM leads", tmp_path / "back.db") == [(400,)]
    assert result.json()["file"] == str(folder / "database.db.gz")


def test_files_as_a_tar_that_any_tar_reads(saved, tmp_path):
    exported(saved, "uploads", tmp_path)
    with tarfile.open(tmp_path / "files.tar.gz") as archive:
        assert "logo.svg" in archive.getnames()


def test_of_several_sources_one_must_be_named(saved, tmp_path):
    with pytest.raises(UsageError, match="app"):
        exported(saved, None, tmp_path)


@pytest.mark.parametrize("taken", ["metadata.json", "database.db.gz", "database.db.gz.sha256"])
def test_nothing_is_overwritten_and_a_failed_export_leaves_nothing(saved, tmp_path, taken):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / taken).write_text("mine")
    with pytest.raises(TargetNotEmpty):
        exported(saved, "app", folder)
    assert [p.name for p in folder.iterdir()] == [taken]
    assert (folder / taken).read_text() == "mine"


def test_the_same_backup_exports_the_same_bytes(saved, tmp_path):
    one, two = (exported(saved, "app", tmp_path / name) for name in ("one", "two"))
    assert one.checksum == two.checksum
    assert module.METADATA == "metadata.json"
