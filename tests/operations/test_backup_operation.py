"""Taking backups: what is committed, what is not, and what a failing source costs."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile

import pytest

from keepwell.core.errors import Busy, Interrupted, KeyCannotRead, SourceError, StoreError, StoreFull, UsageError
from keepwell.core.progress import Silent
from keepwell.operations import backup as module
from keepwell.operations import portable
from keepwell.operations.turn import turn
from keepwell.sources import files, sqlite
from keepwell.stores.local import LocalStore
from keepwell.vault import attachments
from keepwell.vault.cache import cache_folder
from keepwell.vault.prune import prune


def restored_rows(place, folder, name="production@latest"):
    place.restore(name, source="app", to=str(folder / "back.db"))
    return place.sql("SELECT count(*) FROM leads", folder / "back.db")[0][0]


def portable_files(place):
    (backup,) = place.listed()
    folder = place.folder / "vault" / backup.folder
    return folder, sorted(set(os.listdir(folder)) - {"manifest", "metadata.json"})


def test_all_sources_become_one_backup_and_the_document_says_so(place):
    document = place.backup().json()

    assert document["status"] == "complete"
    assert document["sources"]["app"]["tables"] == {
        "users": {"rows": 50},
        "leads": {"rows": 400},
        "archive": {"rows": 0},
    }
    assert document["sources"]["app"]["bytes"] == place.database.stat().st_size
    assert document["sources"]["uploads"]["files"] == 2
    assert document["bytes"]["read"] >= document["bytes"]["new"] > document["bytes"]["stored"] // 2 > 0
    assert document["seconds"] > 0
    assert [str(b.id) for b in place.listed()] == [document["backup"]]
    assert place.check() == []
    json.dumps(document)


def test_databases_are_captured_before_the_files_that_they_name(place):
    class Notes(Silent):
        def __init__(self):
            super().__init__()
            self.said = []

        def note(self, text):
            self.said.append(text)

    notes = Notes()
    place.backup(progress=notes)
    order = [text for text in notes.said if text.startswith("Backing up")]
    assert order == ["Backing up app", "Backing up uploads"]  # the policy has them the other way round


def test_what_was_backed_up_before_is_not_stored_again(place):
    place.backup()
    again = place.backup()
    assert again.new == 0
    assert again.read > 0


def test_unchanged_files_are_not_read_again(place):
    place.clock.advance(hours=1)  # so that the files are older than a tick of their clock
    place.backup()
    place.clock.advance(hours=1)
    place.backup()
    vault = place.vault()
    assert vault.read(place.listed()[-1]).facts("uploads")["reused"] > 25_000


def test_two_backups_in_a_row_have_an_order(place):
    first, second = place.backup(), place.backup()
    assert str(place.vault().find("production@latest").id) == second.backup
    assert first.backup < second.backup


def test_a_source_that_fails_does_not_lose_the_others(place, tmp_path):
    place.backup()
    place.uploads.rename(place.folder / "away")

    result = place.backup()

    assert result.status == "incomplete"
    assert not result.clean
    document = result.json()["sources"]
    assert document["app"]["status"] == "complete"
    assert document["uploads"]["status"] == "failed"
    assert str(place.uploads) in document["uploads"]["error"]
    assert document["uploads"]["hint"]
    assert any("uploads" in text for text in place.progress.warnings)
    assert place.listed()[-1].status == "incomplete"
    assert restored_rows(place, tmp_path) == 400
    assert place.check() == []


def test_when_every_source_fails_nothing_is_committed_and_the_reason_is_told(place):
    place.uploads.rename(place.folder / "away")
    place.database.rename(place.folder / "away.db")
    with pytest.raises(SourceError, match=r"dev\.db"):
        place.backup()
    assert place.listed() == []


def test_a_url_that_cannot_be_had_is_the_fault_of_its_source_only(place, monkeypatch):
    monkeypatch.delenv("LEADS_URL", raising=False)
    place.write_policy(
        more='[environments.production.sources.pg]\ntype = "postgres"\nurl = { env = "LEADS_URL" }',
    )
    result = place.backup()
    assert result.sources["pg"].status == "failed"
    assert "LEADS_URL" in result.sources["pg"].error
    assert result.sources["app"].status == "complete"


def test_an_unexpected_error_of_a_source_is_told_without_its_text_which_may_hold_secrets(place, monkeypatch):
    def explode(*_):
        raise ValueError("postgres://user:hunter2@host")

    monkeypatch.setattr(files, "capture", explode)
    result = place.backup()
    assert result.sources["uploads"].status == "failed"
    assert "ValueError" in result.sources["uploads"].error
    assert "hunter2" not in json.dumps(result.json()) + str(place.progress.warnings)


def test_a_full_disk_for_temporary_files_is_told_as_such(place, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "/tmp/x")

    monkeypatch.setattr(sqlite, "capture", full)
    result = place.backup()
    assert "No space left on device" in result.sources["app"].error
    assert "TMPDIR" in result.sources["app"].hint


def test_a_store_that_fails_aborts_and_loses_no_earlier_backup(place, monkeypatch, tmp_path):
    place.backup()
    place.sql("UPDATE users SET name = 'x' || name")
    put = LocalStore.put

    def full(self, name, data):
        if name.startswith("packs/"):
            raise StoreFull("no space")
        put(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "put", full)
        with pytest.raises(StoreFull):
            place.backup()
    assert len(place.listed()) == 1
    assert restored_rows(place, tmp_path) == 400
    assert place.backup().status == "complete"


def test_an_interrupted_backup_commits_nothing(place):
    place.backup()
    asked = []

    def after_a_while():
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(Interrupted):
        place.backup(cancelled=after_a_while)
    assert len(place.listed()) == 1
    assert place.backup().status == "complete"


def test_ctrl_c_in_a_source_commits_nothing(place, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "capture", stop)
    with pytest.raises(KeyboardInterrupt):
        place.backup()
    assert place.listed() == []


def test_the_highest_due_tier_is_taken_and_an_incomplete_backup_does_not_use_it_up(place):
    place.write_policy(environment='schedule = "0 2 * * *"')
    place.uploads.rename(place.folder / "away")
    assert place.backup().tier == "monthly"
    (place.folder / "away").rename(place.uploads)
    assert [place.backup().tier for _ in range(2)] == ["monthly", "daily"]
    assert place.backup(tier="weekly").tier == "weekly"


def test_without_a_schedule_backups_are_manual(place):
    assert place.backup().tier == "manual"


def test_a_backup_of_some_sources_only_is_no_whole_recovery_point(place):
    place.write_policy(environment='schedule = "0 2 * * *"')
    result = place.backup(sources=["app"])
    assert result.status == "incomplete"
    assert result.tier == "manual"  # the month's backup is still to come
    assert result.sources["uploads"].status == "skipped"
    assert result.clean
    assert place.backup().tier == "monthly"


@pytest.mark.parametrize(
    ("request_", "named"),
    [({"sources": ["ap"]}, "app"), ({"tier": "dayly"}, "daily"), ({"environment": "prodution"}, "production")],
)
def test_what_does_not_exist_is_refused_with_what_may_be_meant(place, request_, named):
    with pytest.raises(UsageError) as caught:
        place.backup(**request_)
    assert named in caught.value.hint
    assert place.listed() == []


def test_a_second_backup_of_the_environment_on_this_machine_is_told_to_wait(place):
    folder = cache_folder(place.vault().config.vault)
    with turn(folder, "production"), pytest.raises(Busy, match=str(os.getpid())):
        place.backup()
    assert place.backup().status == "complete"


@pytest.mark.slow
def test_a_killed_backup_holds_nobody_up(place):
    folder = cache_folder(place.vault().config.vault)
    program = (
        "import sys; from pathlib import Path; from keepwell.operations.turn import turn\n"
        "with turn(Path(sys.argv[1]), 'production'):\n    print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Busy):
            place.backup()
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert place.backup().status == "complete"


def test_a_writer_key_backs_up_and_cannot_read_back(place, tmp_path):
    key = tmp_path / "writer.key"
    place.vault().add_slot(key, role="writer", label="host", now=place.clock.now())
    place.policy_key(key)
    assert place.backup().status == "complete"
    assert place.backup().new == 0
    with pytest.raises(KeyCannotRead):
        place.restore(to=str(tmp_path / "out"))


# Portable copies


def test_a_portable_copy_lies_beside_the_backup_for_the_tiers_that_want_one(place):
    place.write_policy(app='portable = ["manual"]')
    result = place.backup()
    folder, names = portable_files(place)

    assert names == ["database.db.gz", "database.db.gz.sha256"]
    assert result.portable == ("database.db.gz",)
    subprocess.run(["sha256sum", "-c", "--quiet", "database.db.gz.sha256"], cwd=folder, check=True)
    back = folder.parents[3] / "back.db"
    back.write_bytes(gzip.decompress((folder / "database.db.gz").read_bytes()))
    assert place.sql("SELECT count(*) FROM leads", back) == [(400,)]
    metadata = json.loads((folder / "metadata.json").read_text())
    packed = (folder / "database.db.gz").read_bytes()
    assert metadata["portable"] == {
        "database.db.gz": {
            "source": "app",
            "size": len(packed),
            "sha256": hashlib.sha256(packed).hexdigest(),
            "parts": 1,
        }
    }
    assert result.stored > len(packed)
    assert place.check() == []


def test_a_tier_that_is_not_named_gets_no_portable_copy(place):
    place.write_policy(app='portable = ["weekly", "monthly"]')
    assert place.backup().portable == ()
    assert portable_files(place)[1] == []


def test_a_writer_key_makes_portable_copies_too_and_of_files_that_it_need_not_read(place, tmp_path):
    place.write_policy(uploads='portable = ["manual"]')
    key = tmp_path / "writer.key"
    place.vault().add_slot(key, role="writer", label="host", now=place.clock.now())
    place.policy_key(key)
    place.clock.advance(hours=1)
    for _ in range(2):  # the second time the files' content is known already
        place.clock.advance(hours=1)
        place.backup()
    newest = place.listed()[-1]
    with tarfile.open(place.folder / "vault" / newest.folder / "files.tar.gz") as archive:
        content = archive.extractfile("2026/contract.pdf").read()
    assert content == (place.uploads / "2026" / "contract.pdf").read_bytes()


def test_copies_of_two_databases_say_whose_they_are(place):
    other = '[environments.production.sources.crm]\ntype = "sqlite"\npath = "crm.db"\nportable = ["manual"]'
    place.write_policy(app='portable = ["manual"]', more=other)
    place.sql("CREATE TABLE t (a)", place.folder / "crm.db")
    assert sorted(place.backup().portable) == ["app.database.db.gz", "crm.database.db.gz"]
    folder, _ = portable_files(place)
    for name in ("app", "crm"):
        subprocess.run(["sha256sum", "-c", "--quiet", f"{name}.database.db.gz.sha256"], cwd=folder, check=True)


def test_a_copy_that_is_too_large_for_one_object_comes_in_parts(place, monkeypatch):
    monkeypatch.setattr(attachments, "PART_SIZE", 4096)
    place.write_policy(app='portable = ["manual"]')
    place.backup()
    folder, names = portable_files(place)
    parts = [name for name in names if ".part-" in name]
    assert len(parts) > 1
    joined = b"".join((folder / name).read_bytes() for name in parts)
    (place.folder / "back.db").write_bytes(gzip.decompress(joined))
    assert place.sql("SELECT count(*) FROM leads", place.folder / "back.db") == [(400,)]
    assert hashlib.sha256(joined).hexdigest() in (folder / "database.db.gz.sha256").read_text()


@pytest.mark.parametrize("where", ["folder", "stream", "export"])
def test_a_portable_copy_that_cannot_be_made_is_told_and_does_not_cost_the_backup(place, monkeypatch, where):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    if where == "folder":
        monkeypatch.setattr(portable, "WorkFolder", full)
        monkeypatch.setattr(sqlite, "capture", lambda spec, sink, context: one_stream(sink))
    elif where == "stream":
        monkeypatch.setattr("keepwell.operations.spool._Kept.write", full)
    else:
        monkeypatch.setattr(sqlite, "export", full)
    place.write_policy(app='portable = ["manual"]')

    result = place.backup()

    assert result.status == "complete"
    assert not result.clean
    assert result.portable == ()
    (warning,) = result.warnings
    assert "app" in warning
    assert "No space left" in warning
    assert place.check() == []


def one_stream(sink):
    writer = sink.stream("database", "pages")
    writer.write(b"x")
    writer.close()
    return {"type": "sqlite", "database": "dev.db", "bytes": 1, "streams": ["database"], "tables": {}, "warnings": []}


def test_a_store_that_does_not_take_the_copy_commits_nothing_and_prune_clears_the_rest(place, monkeypatch):
    place.write_policy(app='portable = ["manual"]')
    put = LocalStore.put

    def refuse(self, name, data):
        if name.endswith(".sha256"):
            raise StoreError("gone")
        put(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "put", refuse)
        with pytest.raises(StoreError, match="gone"):
            place.backup()
    assert place.listed() == []
    assert any(name.endswith("database.db.gz") for name in place.objects("production/"))

    for _ in range(2):
        prune(place.vault(), [], grace=module.dt.timedelta(0), progress=Silent())
    assert place.objects("production/") == []


def test_no_temporary_file_is_left_behind(place, monkeypatch, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    place.write_policy(app='portable = ["manual"]', uploads='portable = ["manual"]')
    place.backup()
    place.verify()
    place.uploads.rename(place.folder / "away")
    place.backup()
    assert list(scratch.iterdir()) == []
