"""What a RADOS gateway of Ceph does differently, and what keepwell makes of it: no loss, and a word of why."""

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest

from keepwell.core.clock import SystemClock
from keepwell.core.errors import UnsafeStore
from keepwell.operations.protection import examine_bucket, protect
from keepwell.stores import open_store
from keepwell.stores.probe import verify_conditional_put
from support.workplace import Workplace

pytestmark = pytest.mark.slow


@pytest.fixture
def client(rados):
    return boto3.client("s3", **rados.boto)


@pytest.fixture
def bucket(client):
    name = f"leads-{secrets.token_hex(6)}"
    client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def place(tmp_path, rados, bucket, monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": rados.options["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": rados.options["secret_access_key"],
        "AWS_ENDPOINT_URL": rados.endpoint,
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    place = Workplace(tmp_path / "work", clock=SystemClock())
    place.folder.mkdir()
    place.fill()
    place.write_policy()
    policy = place.folder / "keepwell.toml"
    policy.write_text(policy.read_text().replace(f"file://{place.folder}/vault", f"s3://{bucket}/leads"))
    return place


def versioning(client, bucket):
    return client.get_bucket_versioning(Bucket=bucket).get("Status")


def test_a_backup_is_taken_and_proven_in_a_bucket_without_versions(place):
    place.init()
    assert place.backup().status == "complete"
    assert place.verify().proven


def test_a_bucket_with_versions_overwrites_there_and_is_refused(rados, client, bucket):
    store = open_store(f"s3://{bucket}/leads", rados.options)
    verify_conditional_put(store)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    with pytest.raises(UnsafeStore, match="overwrites objects") as caught:
        verify_conditional_put(store)
    assert "without versioning" in caught.value.hint


def test_a_backup_is_refused_before_its_first_object_when_versions_were_turned_on_later(place, client, bucket):
    place.init()
    before = client.list_objects_v2(Bucket=bucket)["KeyCount"]
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    with pytest.raises(UnsafeStore, match="overwrites objects"):
        place.backup()
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == before


def test_protect_does_not_leave_a_bucket_that_overwrites(place, client, bucket):
    with pytest.raises(UnsafeStore, match="suspended again") as caught:
        protect(place.loaded, place.context())
    assert "object lock" in caught.value.hint
    assert versioning(client, bucket) == "Suspended"
    place.init()


def test_protect_turns_no_lock_on_where_that_would_be_for_good_and_for_nothing(place, client, bucket):
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    policy = place.folder / "keepwell.toml"
    policy.write_text(policy.read_text().replace('/leads"', '/leads"\nlock = "31d"'))
    with pytest.raises(UnsafeStore, match="overwrites objects"):
        protect(place.loaded, place.context())
    with pytest.raises(client.exceptions.ClientError, match="ObjectLockConfigurationNotFound"):
        client.get_object_lock_configuration(Bucket=bucket)


def test_doctor_can_look_at_every_setting(place):
    found = list(examine_bucket(place.loaded.policy.vault, place.folder))
    assert [what for state, what, _ in found if state == "fail"] == []
    assert ("ok", "encryption: this server has no such setting", "") in found


def test_of_many_writers_of_one_name_exactly_one_wins_again_and_again(rados, bucket):
    """Ceph looks whether the name is taken where it writes it, not before: no race is lost."""
    client = boto3.client("s3", **rados.boto)
    together = threading.Barrier(6)

    def put(round_, number):
        together.wait()
        try:
            client.put_object(Bucket=bucket, Key=f"n/{round_}", Body=bytes([number]) * 9000, IfNoneMatch="*")
        except client.exceptions.ClientError:
            return None
        return number

    with ThreadPoolExecutor(6) as pool:
        for round_ in range(10):
            won = [n for n in pool.map(put, [round_] * 6, range(6)) if n is not None]
            assert len(won) == 1
            assert client.get_object(Bucket=bucket, Key=f"n/{round_}")["Body"].read() == bytes(won) * 9000
