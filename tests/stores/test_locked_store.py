"""Object lock: every object is locked when it is written, and nothing that is locked can be deleted."""

import datetime as dt
import secrets
import time

import boto3
import pytest

from keepwell.core.clock import UTC, FakeClock
from keepwell.core.errors import ObjectExists, ObjectMissing, StoreDenied, StoreError, UnsafeStore
from keepwell.stores import Lock, open_store
from keepwell.stores.lockable import held
from keepwell.stores.locked import LockedStore

pytestmark = pytest.mark.slow
DAYS = dt.timedelta(days=1)


@pytest.fixture(params=["moto", "rados"])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def client(server):
    return boto3.client("s3", **server.boto)


@pytest.fixture
def bucket(client):
    name = f"locked-{secrets.token_hex(6)}"
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name


@pytest.fixture
def clock():
    return FakeClock(dt.datetime.now(UTC).replace(microsecond=0))


@pytest.fixture
def store(server, bucket, clock):
    return LockedStore(f"s3://{bucket}/leads", server.options, Lock(30 * DAYS), clock=clock)


def head(client, bucket, name):
    return client.head_object(Bucket=bucket, Key=f"leads/{name}")


def test_every_object_is_locked_for_the_period_in_the_mode_asked_for(store, client, bucket, clock, server):
    store.put("packs/ab/one", b"1" * 300_000)
    found = head(client, bucket, "packs/ab/one")
    assert found["ObjectLockMode"] == "COMPLIANCE"
    assert abs(found["ObjectLockRetainUntilDate"] - (clock.now() + 30 * DAYS)) < dt.timedelta(seconds=2)
    gentle = LockedStore(f"s3://{bucket}/leads", server.options, Lock(DAYS, "governance"))
    gentle.put("two", b"2")
    assert head(client, bucket, "two")["ObjectLockMode"] == "GOVERNANCE"


def test_a_locked_object_cannot_be_deleted_and_says_until_when(store, client, bucket):
    store.put("packs/ab/one", b"1")
    with pytest.raises(StoreDenied, match="is locked until 20") as caught:
        store.delete("packs/ab/one")
    assert "keepwell prune" in caught.value.hint
    assert store.get("packs/ab/one") == b"1"
    version = head(client, bucket, "packs/ab/one")["VersionId"]
    with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
        client.delete_object(Bucket=bucket, Key="leads/packs/ab/one", VersionId=version)


def test_what_is_no_longer_locked_is_deleted_for_good_and_leaves_no_version(server, client, bucket):
    # Not a lock that is over already: real servers take none.
    store = LockedStore(f"s3://{bucket}/leads", server.options, Lock(dt.timedelta(seconds=1)))
    store.put("one", b"1")
    until_it_is_deleted(store, "one")
    with pytest.raises(ObjectMissing):
        store.get("one")
    found = client.list_object_versions(Bucket=bucket)
    assert not found.get("Versions")
    assert not found.get("DeleteMarkers")
    store.delete("one")


def until_it_is_deleted(store, name):
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        try:
            return store.delete(name)
        except StoreDenied:
            pass
        time.sleep(0.05)
    raise AssertionError(f"{name} is still locked")


def test_trash_and_probes_are_not_locked(store, client, bucket):
    for name in ("trash/1.json", "probes/1"):
        store.put(name, b"1")
        assert "ObjectLockRetainUntilDate" not in head(client, bucket, name)
        store.delete(name)
    assert list(store.list()) == []
    assert not client.list_object_versions(Bucket=bucket).get("Versions")


@pytest.mark.parametrize("server", ["moto"], indirect=True)  # a RADOS gateway does not: test_rados_gateway.py
def test_a_taken_name_is_refused_and_its_lock_stays(store, client, bucket):
    store.put("one", b"1")
    until = head(client, bucket, "one")["ObjectLockRetainUntilDate"]
    with pytest.raises(ObjectExists):
        store.put("one", b"2")
    store.put("one", b"1")
    assert store.get("one") == b"1"
    assert head(client, bucket, "one")["ObjectLockRetainUntilDate"] == until
    assert len(client.list_object_versions(Bucket=bucket)["Versions"]) == 1


def test_an_object_found_with_a_shorter_lock_gets_the_whole_one(server, store, client, bucket, clock):
    LockedStore(f"s3://{bucket}/leads", server.options, Lock(DAYS), clock=clock).put("one", b"1")
    store.put("one", b"1")
    assert head(client, bucket, "one")["ObjectLockRetainUntilDate"] >= clock.now() + 29 * DAYS


def test_a_bucket_without_object_lock_is_refused_with_the_way_out(server, client):
    name = f"plain-{secrets.token_hex(6)}"
    client.create_bucket(Bucket=name)
    store = open_store(f"s3://{name}", server.options, lock=Lock(30 * DAYS))
    with pytest.raises(UnsafeStore, match="lock") as caught:
        store.put("one", b"1")
    assert "object lock" in caught.value.hint


def test_a_server_that_drops_the_lock_is_found_out(store, monkeypatch):
    real = store._at.client.put_object
    monkeypatch.setattr(
        store._at.client, "put_object", lambda **a: real(**{k: v for k, v in a.items() if "Lock" not in k})
    )
    monkeypatch.setattr(store._at.client, "put_object_retention", lambda **a: None)
    with pytest.raises(UnsafeStore, match="did not lock it"):
        store.put("one", b"1")


def test_renewing_brings_locks_back_to_the_whole_period_and_leaves_fresh_ones(store, client, bucket, clock):
    store.put("old", b"1")
    clock.advance(20 * DAYS)
    store.put("new", b"2")
    done = store.renew(["old", "new", "gone", "trash/x"])
    assert (done.objects, done.renewed) == (3, 1)
    for name in ("old", "new"):
        assert head(client, bucket, name)["ObjectLockRetainUntilDate"] >= clock.now() + 29 * DAYS
    assert store.renew(["old", "new"]).renewed == 0


def test_held_tells_until_when(store, clock):
    store.put("one", b"1")
    assert held(store, ["gone", "one"], clock.now()) == store.locked_until("one")
    assert held(store, ["one"], clock.now() + 31 * DAYS) is None
    assert held(open_store("s3://bucket"), ["one"], clock.now()) is None


def test_only_s3_has_a_lock():
    with pytest.raises(StoreError, match="no object lock"):
        open_store("file:///tmp", lock=Lock(DAYS))
