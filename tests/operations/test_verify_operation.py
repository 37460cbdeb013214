"""Proofs: what they catch, what they record, and what counts as proven."""

import os
import shutil
import sqlite3

import pytest

from keepwell.core.errors import BackupNotFound, Interrupted, SourceError, StoreDenied, StoreError, UsageError
from keepwell.operations import verify as module
from keepwell.sources import sqlite
from keepwell.sources.base import RestoreReport
from keepwell.stores.local import LocalStore

LEVELS = ["objects", "restore", "round-trip", "checks"]


@pytest.fixture
def saved(place):
    place.backup()
    return place


def proven(place):
    return place.listed()[-1].proven


def findings(result, source):
    return {finding["what"]: finding["problem"] for finding in result.json()["sources"][source]["findings"]}


def damage(name, *statements):
    """Changes the restored database before it is compared."""

    def after_restore(source, target):
        if source == name:
            connection = sqlite3.connect(target.path)
            for statement in statements:
                connection.execute(statement)
            connection.commit()
            connection.close()

    return after_restore


def change_object(place, name, how):
    path = place.folder / "vault" / name
    data = bytearray(path.read_bytes())
    path.unlink()
    if how == "flip":
        data[len(data) // 2] ^= 1
    elif how == "truncate":
        data = data[: len(data) // 2]
    if how != "remove":
        path.write_bytes(bytes(data))


def test_a_backup_that_is_right_is_proven_and_the_record_says_how(saved):
    saved.write_policy(app='critical_tables = ["users", "leads"]')
    result = saved.verify()

    assert result.passed
    document = result.json()
    assert document["level"] == "checks"
    assert document["sources"]["app"]["tables"]["leads"] == {"rows": 400, "equal": True}
    assert [c["passed"] for c in document["sources"]["app"]["checks"]] == [True, True]
    assert {"sandbox", "restore", "examine", "round-trip", "checks", "objects", "total"} == document["seconds"].keys()
    assert document["seconds"]["total"] >= document["seconds"]["restore"] > 0
    assert proven(saved)
    vault = saved.vault()
    (proof,) = vault.proofs(saved.listed()[0])
    assert (proof.level, proof.passed, proof.name) == ("checks", True, document["proof"])
    assert proof.details["sources"] == document["sources"]
    assert proof.details["who"].endswith(os.uname().nodename)
    assert proof.details["program"]["keepwell"]
    assert "2 checks passed" in proof.summary
    assert saved.check() == []


def test_the_policy_says_how_far_a_proof_goes(saved):
    saved.write_policy(environment='verify = "restore"')
    assert saved.verify().level == "restore"
    assert proven(saved)


@pytest.mark.parametrize(
    ("statement", "lowest", "what", "problem"),
    [
        ("UPDATE leads SET amount = amount + 1 WHERE id = 7", "round-trip", "leads", "not the same values"),
        ("DELETE FROM leads WHERE id = 7", "restore", "leads", "399 rows; 400"),
        ("DROP INDEX leads_by_owner", "restore", "leads_by_owner", "missing"),
        ("DROP TABLE archive", "restore", "archive", "missing"),
    ],
)
def test_the_right_level_catches_what_is_wrong_with_a_restored_database(saved, statement, lowest, what, problem):
    for level in LEVELS:
        result = saved.verify(level, after_restore=damage("app", statement))
        caught = LEVELS.index(level) >= LEVELS.index(lowest)
        assert result.passed is not caught, level
        if caught:
            assert problem in findings(result, "app")[what]
            assert findings(result, "uploads") == {}
            assert what in saved.vault().proofs(saved.listed()[0])[-1].summary
    assert not proven(saved)


def test_a_table_that_differs_is_not_called_equal(saved):
    result = saved.verify(after_restore=damage("app", "UPDATE leads SET amount = 0 WHERE id = 7"))
    tables = result.json()["sources"]["app"]["tables"]
    assert tables["leads"] == {"rows": 400, "equal": False}
    assert tables["users"] == {"rows": 50, "equal": True}


@pytest.mark.parametrize(
    ("change", "lowest", "named"),
    [
        (lambda root: (root / "logo.svg").unlink(), "restore", None),
        (lambda root: (root / "logo.svg").unlink(), "round-trip", "logo.svg"),
        (lambda root: (root / "2026" / "contract.pdf").write_bytes(b"%PDG" + bytes(range(256)) * 100), "round-trip", "2026/contract.pdf"),
        (lambda root: (root / "logo.svg").chmod(0o600), "round-trip", "logo.svg"),
        (lambda root: (root / "new").write_text("x"), "round-trip", "new"),
    ],
)  # fmt: skip
def test_a_lost_changed_or_new_file_is_caught_and_named(saved, change, lowest, named):
    (saved.uploads / "logo.svg").chmod(0o644)
    result = saved.verify(lowest, after_restore=lambda name, target: name == "uploads" and change(target.path))
    assert not result.passed
    found = findings(result, "uploads")
    assert found
    if named:
        assert named in found
    assert findings(result, "app") == {}


@pytest.mark.parametrize(
    ("app", "what", "problem"),
    [
        ('critical_tables = ["archive"]', "archive", "empty"),
        ('critical_tables = ["deals"]', "deals", "no such table"),
        ('checks = [{ name = "no free leads", sql = "select count(*) from leads where amount <= 0", expect = "= 0" }]', "no free leads", "the answer is 1; expected = 0"),
        ('checks = [{ name = "typo", sql = "select count(*) from deal", expect = "= 0" }]', "typo", "no such table"),
        ('checks = [{ name = "own", command = ["sh", "-c", "echo too few; exit 3"] }]', "own", "exit status 3: too few"),
        ('checks = [{ name = "gone", command = ["no-such-program"] }]', "gone", "cannot be run"),
    ],
)  # fmt: skip
def test_a_check_of_the_policy_that_fails_or_cannot_be_carried_out_fails_the_proof(saved, app, what, problem):
    saved.write_policy(app=app)
    assert saved.verify("round-trip").passed
    result = saved.verify("checks")
    assert not result.passed
    (check,) = result.json()["sources"]["app"]["checks"]
    assert check["passed"] is False
    assert problem in check["problem"]
    assert any(what in name for name in findings(result, "app"))
    assert not proven(saved)


def test_checks_that_pass(saved):
    saved.write_policy(
        app='checks = [{ name = "sum", sql = "select sum(amount) from leads", expect = "> 0" }, '
        '{ name = "own", command = ["sh", "-c", "test -s $KEEPWELL_RESTORED && test $KEEPWELL_SOURCE = app"] }]',
        uploads='checks = [{ name = "logo", command = ["sh", "-c", "grep -q svg $KEEPWELL_RESTORED/logo.svg"] }]',
    )
    result = saved.verify()
    assert result.passed
    assert [c.passed for s in result.sources.values() for c in s.checks] == [True, True, True]


def test_a_restore_that_fails_fails_every_check_too(saved, monkeypatch):
    saved.write_policy(app='critical_tables = ["users"]')

    def broken(*_):
        raise SourceError("pg_restore died")

    monkeypatch.setattr(sqlite, "restore", broken)
    result = saved.verify()
    document = result.json()["sources"]["app"]
    assert findings(result, "app") == {"restore": "pg_restore died"}
    assert [c["passed"] for c in document["checks"]] == [False]
    assert document["tables"]["leads"] == {"rows": None, "equal": False}
    assert result.sources["uploads"].passed
    assert not proven(saved)


def test_a_sandbox_that_cannot_be_had_fails_the_proof(saved, monkeypatch):
    def none(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sqlite, "sandbox", none)
    assert "No space left" in findings(saved.verify(), "app")["sandbox"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("how", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("kind", ["packs/", "manifest"])
def test_damage_in_the_store_is_found_at_every_level_and_named(saved, level, how, kind):
    (name,) = [n for n in saved.objects() if n.startswith(kind) or n.endswith(f"/{kind}")]
    change_object(saved, name, how)
    result = saved.verify(level)
    assert not result.passed
    texts = str(result.json()["sources"])
    assert (name.split("/")[-1] if kind == "packs/" else "manifest") in texts
    assert not proven(saved)
    assert saved.vault().proofs(saved.listed()[0])[-1].passed is False


def test_bytes_that_a_restore_does_not_need_are_read_as_well(saved, monkeypatch):
    """A restore that reads too little must not hide what it left out."""
    (name,) = saved.objects("packs/")

    def lazily(facts, streams, target, request, context):
        shutil.copy(saved.database, target.path)
        return RestoreReport()

    monkeypatch.setattr(sqlite, "restore", lazily)
    assert saved.verify("restore", sources=["app"]).passed
    change_object(saved, name, "flip")
    assert not saved.verify("restore").passed


def test_a_store_that_cannot_be_reached_is_no_failed_proof(saved, monkeypatch):
    real = LocalStore.get_range

    def unreachable(self, name, start, length):
        if name.startswith("packs/"):
            raise StoreError("unreachable")
        return real(self, name, start, length)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "get_range", unreachable)
        with pytest.raises(StoreError, match="unreachable"):
            saved.verify()
    assert saved.vault().proofs(saved.listed()[0]) == []


def test_an_interrupted_proof_records_nothing(saved):
    with pytest.raises(Interrupted):
        module.verify(saved.loaded, module.VerifyRequest("production"), saved.context(cancelled=lambda: True))
    assert saved.vault().proofs(saved.listed()[0]) == []


def test_a_result_that_cannot_be_recorded_is_told_all_the_same(saved, monkeypatch):
    def denied(self, name, data):
        raise StoreDenied("read only")

    monkeypatch.setattr(LocalStore, "put", denied)
    with pytest.raises(StoreDenied, match=r"the proof of .* passed, but it could not be recorded: read only"):
        saved.verify()


# What counts as proven


def test_only_a_restored_and_compared_whole_backup_counts_as_proven(saved):
    for level, sources in (("objects", ()), ("checks", ("app",)), ("checks", ("uploads",))):
        result = saved.verify(level, sources=sources)
        assert result.passed
        assert not result.proven
        assert not proven(saved)
    with pytest.raises(BackupNotFound):
        saved.vault().find("production@proven")
    assert saved.verify("restore").proven
    assert proven(saved)


def test_reading_the_objects_again_does_not_take_a_proof_away_and_a_failure_does(saved):
    saved.verify()
    saved.verify("objects")
    assert proven(saved)
    saved.verify(sources=["app"], after_restore=damage("app", "DELETE FROM leads"))
    assert not proven(saved)
    saved.verify("objects")
    assert not proven(saved)
    saved.verify()
    assert proven(saved)


def test_an_incomplete_backup_never_counts_as_proven(saved):
    saved.uploads.rename(saved.folder / "away")
    saved.backup()
    result = saved.verify()
    assert not result.passed
    assert result.sources["app"].passed
    assert str(saved.uploads) in findings(result, "uploads")["uploads"]
    assert saved.verify(sources=["app"]).passed
    assert not proven(saved)
    with pytest.raises(SourceError):
        saved.verify(sources=["uploads"])


def test_a_source_that_the_policy_no_longer_has_is_proven_without_checks(saved):
    text = (saved.folder / "keepwell.toml").read_text()
    (saved.folder / "keepwell.toml").write_text(text.split("[environments.production.sources.app]")[0])
    assert saved.verify().proven
    assert any("no source app any more" in warning for warning in saved.progress.warnings)


@pytest.mark.parametrize("request_", [{"level": "round"}, {"sources": ["ap"]}, {"name": "staging"}])
def test_what_does_not_exist_cannot_be_verified(saved, request_):
    with pytest.raises(UsageError):
        saved.verify(**request_)


def test_the_source_itself_is_not_needed(saved):
    saved.database.unlink()
    shutil.rmtree(saved.uploads)
    assert saved.verify().proven
