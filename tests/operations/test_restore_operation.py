"""Bringing data back, and never over something that is there."""

import sqlite3

import pytest

from keepwell.core.errors import BackupNotFound, Damaged, SourceError, TargetNotEmpty, UsageError


@pytest.fixture
def saved(place):
    place.backup()
    return place


def rows(place, path):
    return place.sql("SELECT count(*) FROM leads", path)[0][0]


def flip(place, source):
    """Turns over a bit in the first frame of this source; one pack holds both sources."""
    vault = place.vault()
    reader = vault.read(place.listed()[-1])
    extents = next(stream.extents for stream in reader.manifest.streams if stream.source == source)
    (name,) = place.objects("packs/")
    path = place.folder / "vault" / name
    at = int(extents.offset[0]) + int(extents.length[0]) // 2
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o600)
    path.write_bytes(bytes(data))


def test_everything_comes_back_below_one_folder_each_source_under_its_name(saved, tmp_path):
    result = saved.restore(to=str(tmp_path / "out"))
    assert result.clean
    assert rows(saved, tmp_path / "out" / "app" / "dev.db") == 400
    assert (tmp_path / "out" / "uploads" / "logo.svg").read_text() == "<svg/>"
    document = result.json()
    assert document["status"] == "complete"
    assert document["sources"]["app"]["tables"] == {"users": 50, "leads": 400, "archive": 0}
    assert document["sources"]["uploads"]["files"] == 2
    assert document["sources"]["uploads"]["to"] == str(tmp_path / "out" / "uploads")


def test_one_source_goes_where_it_is_told(saved, tmp_path):
    result = saved.restore(source="app", to=str(tmp_path / "deep" / "new.db"))
    assert list(result.sources) == ["app"]
    assert rows(saved, tmp_path / "deep" / "new.db") == 400


def test_a_database_goes_into_a_folder_that_is_there_under_its_own_name(saved, tmp_path):
    saved.restore(source="app", to=str(tmp_path))
    assert rows(saved, tmp_path / "dev.db") == 400


def test_one_table_into_a_new_database_or_as_sql(saved, tmp_path):
    saved.restore(tables=("users",), to=str(tmp_path / "users.db"))
    saved.restore(tables=("users",), sql=tmp_path / "users.sql")
    with pytest.raises(sqlite3.OperationalError, match="no such table: leads"):
        rows(saved, tmp_path / "users.db")
    assert saved.sql("SELECT count(*) FROM users", tmp_path / "users.db") == [(50,)]
    connection = sqlite3.connect(":memory:")
    connection.executescript((tmp_path / "users.sql").read_text())
    assert connection.execute("SELECT count(*) FROM users").fetchone() == (50,)
    connection.close()


def test_one_file_or_folder(saved, tmp_path):
    result = saved.restore(paths=("2026",), to=str(tmp_path / "some"))
    assert list(result.sources) == ["uploads"]
    assert [p.name for p in (tmp_path / "some").iterdir()] == ["2026"]


def test_an_earlier_backup_is_restored_as_it_was(saved, tmp_path):
    first = saved.listed()[0]
    saved.sql("DELETE FROM leads")
    saved.backup()
    saved.restore(str(first.id), source="app", to=str(tmp_path / "then.db"))
    saved.restore("production", source="app", to=str(tmp_path / "now.db"))
    assert (rows(saved, tmp_path / "then.db"), rows(saved, tmp_path / "now.db")) == (400, 0)


def test_nothing_is_ever_overwritten(saved, tmp_path):
    with pytest.raises(TargetNotEmpty):
        saved.restore(source="app", to=str(saved.database))
    with pytest.raises(TargetNotEmpty):
        saved.restore(source="uploads", to=str(saved.uploads))
    (tmp_path / "x.sql").write_text("mine")
    with pytest.raises(TargetNotEmpty):
        saved.restore(source="app", sql=tmp_path / "x.sql")
    assert rows(saved, saved.database) == 400
    assert (tmp_path / "x.sql").read_text() == "mine"


def test_where_one_of_several_places_is_taken_nothing_is_begun(saved, tmp_path):
    (tmp_path / "out" / "uploads").mkdir(parents=True)
    with pytest.raises(TargetNotEmpty):
        saved.restore(to=str(tmp_path / "out"))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["uploads"]


def test_a_damaged_source_does_not_hold_up_the_others(saved, tmp_path):
    flip(saved, "uploads")
    result = saved.restore(to=str(tmp_path / "out"))
    assert not result.clean
    assert result.json()["status"] == "incomplete"
    assert result.sources["app"].error == ""
    assert "pack" in result.sources["uploads"].error
    assert rows(saved, tmp_path / "out" / "app" / "dev.db") == 400
    with pytest.raises(Damaged):
        saved.restore(source="uploads", to=str(tmp_path / "alone"))


def test_sources_that_failed_at_backup_time_are_named(saved, tmp_path):
    saved.uploads.rename(saved.folder / "away")
    saved.backup()
    result = saved.restore(to=str(tmp_path / "out"))
    assert not result.clean
    assert str(saved.uploads) in result.json()["missing"]["uploads"]
    with pytest.raises(SourceError, match="uploads"):
        saved.restore(source="uploads", to=str(tmp_path / "x"))


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"source": "app"},
        {"to": "x", "sql": "y.sql", "source": "app"},
        {"source": "app", "to_new_database": "leads"},
        {"source": "uploads", "sql": "y.sql"},
        {"tables": ("users",), "paths": ("2026",), "to": "x"},
        {"source": "app", "tables": ("nobody",), "to": "x"},
        {"to": "env:LEADS_URL"},
        {"to_new_database": "leads"},
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(saved, tmp_path, monkeypatch, request_):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    if "sql" in request_:
        request_ = request_ | {"sql": here / request_["sql"]}
    with pytest.raises(UsageError):
        saved.restore(**request_)
    assert list(here.iterdir()) == []


def test_a_source_or_backup_that_does_not_exist_is_told_with_those_that_do(saved, tmp_path):
    with pytest.raises(BackupNotFound) as caught:
        saved.restore(source="ap", to=str(tmp_path / "x"))
    assert "app" in caught.value.hint
    with pytest.raises(BackupNotFound):
        saved.restore("staging@latest", to=str(tmp_path / "x"))


def test_tables_of_several_databases_need_the_name_of_one(place, tmp_path):
    place.write_policy(more='[environments.production.sources.crm]\ntype = "sqlite"\npath = "crm.db"')
    place.sql("CREATE TABLE users (a)", place.folder / "crm.db")
    place.backup()
    with pytest.raises(UsageError, match=r"app, crm|crm, app"):
        place.restore(tables=("users",), to=str(tmp_path / "x.db"))
    place.restore(source="crm", tables=("users",), to=str(tmp_path / "x.db"))
    assert place.sql("SELECT count(*) FROM users", tmp_path / "x.db") == [(0,)]
