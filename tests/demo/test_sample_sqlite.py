"""The development database of the sample: the same model, the same seed, as far as SQLite allows."""

import json
import sqlite3
from contextlib import closing

import pytest

from keepwell.core.errors import SourceError, TargetNotEmpty
from keepwell.demo import sample


def ask(path, sql):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture
def filled(tmp_path):
    path = tmp_path / "apps" / "api" / "dev.db"
    counts = sample.fill_sqlite(path, 300)
    assert counts == {"users": 3, "leads": 300, "activities": 1200, "closed_deals": 30}
    return path


def test_the_file_is_sound_and_its_references_hold(filled):
    assert ask(filled, "PRAGMA integrity_check") == [("ok",)]
    assert ask(filled, "PRAGMA foreign_key_check") == []
    assert ask(filled, "SELECT count(*) FROM _prisma_migrations") == [(1,)]


def test_values_have_the_types_that_an_application_expects(filled):
    row = ask(filled, "SELECT typeof(avatar), active, typeof(settings) FROM users WHERE avatar IS NOT NULL")[0]
    assert row == ("blob", 1, "text")
    (tags,) = ask(filled, "SELECT tags FROM leads WHERE tags <> '[]'")[0]
    assert all(isinstance(tag, str) for tag in json.loads(tags))
    assert ask(filled, "SELECT typeof(score), typeof(value) FROM leads LIMIT 1")[0][0] == "integer"
    assert ask(filled, "SELECT count(*) FROM leads WHERE full_name <> first_name || ' ' || last_name") == [(0,)]
    assert ask(filled, "SELECT substr(contract, 1, 5) FROM closed_deals WHERE contract IS NOT NULL") == [(b"%PDF-",)]
    assert ask(filled, "SELECT count(*) FROM leads WHERE instr(custom, char(0))") == [(0,)]
    assert ask(filled, "SELECT count(*) > 0 FROM leads WHERE custom IS NULL") == [(1,)]


def test_one_seed_makes_one_sample_and_another_seed_another(filled, tmp_path):
    sample.fill_sqlite(tmp_path / "again.db", 300)
    sample.fill_sqlite(tmp_path / "other.db", 300, seed=2)
    expected = sample.fingerprint_sqlite(filled)
    assert sample.fingerprint_sqlite(tmp_path / "again.db") == expected
    other = sample.fingerprint_sqlite(tmp_path / "other.db")
    assert other["leads"][0] == expected["leads"][0]
    assert other["leads"][1] != expected["leads"][1]


def test_a_recent_day_appends_and_changes_the_newest_rows(filled):
    (before,) = ask(filled, "SELECT group_concat(notes) FROM leads WHERE id <= 285")
    changes = sample.change_sqlite(filled, 0.1)
    assert changes.appended["leads"] == 15
    assert changes.appended["activities"] == 60
    assert changes.changed == {"leads": 15, "activities": 60}
    assert ask(filled, "SELECT group_concat(notes) FROM leads WHERE id <= 285") == [before]
    assert ask(filled, "PRAGMA foreign_key_check") == []
    assert ask(filled, "SELECT id FROM leads WHERE status = 'won' EXCEPT SELECT lead_id FROM closed_deals") == []


def test_a_random_day_changes_rows_anywhere_and_the_fingerprint_sees_it(filled):
    before = sample.fingerprint_sqlite(filled)
    changes = sample.change_sqlite(filled, 0.02, "random")
    assert changes.appended == {}
    assert changes.changed == {"leads": 6, "activities": 24}
    after = sample.fingerprint_sqlite(filled)
    assert [name for name in before if before[name] != after[name]] == ["activities", "leads"]


def test_an_existing_file_is_not_touched(tmp_path):
    path = tmp_path / "dev.db"
    path.write_bytes(b"precious")
    with pytest.raises(TargetNotEmpty, match=r"dev\.db already exists"):
        sample.fill_sqlite(path, 10)
    assert path.read_bytes() == b"precious"


def test_a_missing_file_is_an_error_and_stays_missing(tmp_path):
    path = tmp_path / "dev.db"
    for work in (sample.change_sqlite, sample.fingerprint_sqlite):
        with pytest.raises(SourceError, match=r"dev\.db"):
            work(path)
    assert not path.exists()


def test_a_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "dev.db"
    path.write_bytes(b"not a database" * 100)
    for work in (sample.change_sqlite, sample.fingerprint_sqlite):
        with pytest.raises(SourceError, match=r"dev\.db"):
            work(path)
