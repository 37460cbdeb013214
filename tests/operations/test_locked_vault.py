"""A vault with object lock: founded, written, proven; and nothing of it goes before its time, whoever asks."""

import datetime as dt
import secrets

import boto3
import pytest

from keepwell.core.clock import UTC, SystemClock
from keepwell.core.errors import PolicyError, StoreDenied, UnsafeStore
from keepwell.operations.prune import PruneRequest, prune, undo
from keepwell.policy.load import load
from keepwell.vault import audit, audittrim, auditverify
from support.servers import moto_server
from support.workplace import Workplace

pytestmark = pytest.mark.slow
KEEP = "keep = { daily = 1, weekly = 1, monthly = 1, manual = 1 }"


@pytest.fixture(scope="module")
def moto():
    with moto_server() as server:
        yield server


@pytest.fixture
def client(moto):
    return boto3.client("s3", **moto.boto)


@pytest.fixture
def bucket(client):
    name = f"locked-{secrets.token_hex(6)}"
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name


@pytest.fixture
def place(tmp_path, moto, bucket, monkeypatch):
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    place = Workplace(tmp_path / "work", clock=SystemClock())
    place.folder.mkdir()
    place.fill()
    write(place, bucket, 'lock = "31d"\ngrace = "0s"')
    return place


def write(place, bucket, vault, environment=KEEP):
    place.write_policy(environment=environment)
    policy = place.folder / "keepwell.toml"
    text = policy.read_text().replace(f'"file://{place.folder}/vault"', f'"s3://{bucket}/leads"\n{vault}')
    policy.write_text(text)


def locks(client, bucket):
    """{name: days to go} of every object."""
    now = dt.datetime.now(UTC)
    found = {}
    for entry in client.list_objects_v2(Bucket=bucket)["Contents"]:
        until = client.head_object(Bucket=bucket, Key=entry["Key"]).get("ObjectLockRetainUntilDate")
        found[entry["Key"].removeprefix("leads/")] = round((until - now) / dt.timedelta(days=1)) if until else 0
    return found


def test_every_object_of_a_backup_and_its_proof_is_locked(place, client, bucket):
    place.init()
    place.backup()
    place.verify()
    found = locks(client, bucket)
    assert {"vault.json", "RECOVERY.md"} <= set(found)
    assert {name.split("/")[0] for name in found} >= {"keys", "packs", "index", "production"}
    assert {name: days for name, days in found.items() if days != 31} == {}
    assert place.check() == []


def test_what_a_prune_condemned_stays_while_it_is_locked_and_can_be_brought_back(place, client, bucket):
    place.init()
    place.backup(tier="manual")
    place.sql("delete from leads")
    place.backup(tier="manual")
    before = {name for name in locks(client, bucket) if not name.startswith("index/")}
    for _ in range(2):
        report = prune(place.loaded, PruneRequest(), place.context()).report
        assert report.deleted == []
        assert report.waiting
    assert len(place.listed()) == 1
    assert before <= set(locks(client, bucket))
    assert not client.list_object_versions(Bucket=bucket).get("DeleteMarkers", [])[4:]  # probes and trash only
    assert len(undo(place.loaded).back) == 1
    assert len(place.listed()) == 2
    assert place.check() == []


def test_a_prune_renews_the_locks_of_what_is_still_needed(place, client, bucket):
    place.init()
    write(place, bucket, 'lock = "1d"', "keep = { daily = '1d', weekly = '1d', monthly = '1d', manual = '1d' }")
    place.backup(tier="manual")
    assert 1 in locks(client, bucket).values()
    write(place, bucket, 'lock = "31d"\ngrace = "0s"')
    prune(place.loaded, PruneRequest(), place.context())
    assert {name for name, days in locks(client, bucket).items() if days != 31} == set()


def test_a_vault_is_not_founded_in_a_bucket_without_object_lock(place, client, bucket):
    client.create_bucket(Bucket=f"{bucket}-plain")
    write(place, f"{bucket}-plain", 'lock = "31d"')
    with pytest.raises(UnsafeStore, match="lock"):
        place.init()


def test_a_key_slot_is_locked_like_everything_else(place, client, bucket):
    place.init()
    vault = place.vault()
    slot = vault.key_slots()[0].id
    with pytest.raises(StoreDenied, match="locked until"):
        vault.store.delete(f"keys/{slot}.json")


@pytest.mark.parametrize(
    ("vault", "environment", "what"),
    [
        ('lock = "7d"', "keep = {}", "30 days"),
        ('lock = "30d"', "keep = { monthly = 12 }", "monthly backups of production are kept for"),
        ('lock_mode = "governance"', "", "there is no lock"),
        ('lock = "soon"', "", "lock"),
    ],
)
def test_a_lock_that_does_not_hold_what_the_rules_keep_is_a_policy_error(place, bucket, vault, environment, what):
    write(place, bucket, vault, environment)
    with pytest.raises(PolicyError) as caught:
        load(place.folder / "keepwell.toml")
    assert what in str(caught.value)
    assert "vault.lock" in str(caught.value)


def test_a_lock_is_for_s3_only(place):
    place.write_policy(environment=KEEP)
    policy = place.folder / "keepwell.toml"
    policy.write_text(policy.read_text().replace("[vault]", '[vault]\nlock = "31d"'))
    with pytest.raises(PolicyError, match="s3://"):
        load(policy)


def test_entries_of_the_audit_log_are_locked_and_stay_until_their_lock_is_over(place, client, bucket):
    place.init()
    vault, head = place.vault(), audit.NOTHING
    for number in range(101):
        head = audit.append(vault.store, vault.keyring, {"event": "begun", "number": number}, head, fresh=number > 0)[
            0
        ].head
    assert {days for name, days in locks(client, bucket).items() if name.startswith("logs/")} == {31}
    with pytest.raises(StoreDenied):
        vault.store.delete(audit.name_of(7))
    now = dt.datetime.now(UTC)
    assert audittrim.trim(vault, dt.timedelta(0), now, place.progress) == 0
    assert audittrim.trim(vault, dt.timedelta(0), now + dt.timedelta(days=30), place.progress) == 0
    verdict = auditverify.verify(vault, [])
    assert (verdict.findings, verdict.first, verdict.entries) == ([], 1, 103)
