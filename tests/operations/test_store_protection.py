"""The settings of a bucket: what doctor sees, what `store protect` sets, and that it takes nothing away."""

import dataclasses
import json
import secrets

import boto3
import pytest

from keepwell.core.clock import SystemClock
from keepwell.core.errors import StoreError, UsageError
from keepwell.operations.doctor import doctor
from keepwell.operations.protection import examine_bucket, protect
from keepwell.stores.aws import open_bucket
from keepwell.stores.protect import changes
from keepwell.stores.settings import Wants, examine
from support.servers import moto_server
from support.workplace import Workplace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def moto():
    with moto_server() as server:
        yield server


@pytest.fixture
def client(moto):
    return boto3.client("s3", **moto.boto)


@pytest.fixture
def bucket(client):
    name = f"leads-{secrets.token_hex(6)}"
    client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def place(tmp_path, moto, bucket, monkeypatch):
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    place = Workplace(tmp_path / "work", clock=SystemClock())
    place.folder.mkdir()
    place.fill()
    write(place, bucket)
    return place


def write(place, bucket, vault=""):
    place.write_policy()
    policy = place.folder / "keepwell.toml"
    policy.write_text(policy.read_text().replace(f'"file://{place.folder}/vault"', f'"s3://{bucket}/leads"\n{vault}'))


def seen(place):
    """{topic: (states, texts)}"""
    found = {}
    for state, what, mend in examine_bucket(place.loaded.policy.vault, place.folder):
        assert mend or state == "ok"
        topic, _, text = what.partition(": ")
        found.setdefault(topic, []).append((state, text))
    return found


def test_doctor_names_what_a_new_bucket_lacks(place):
    found = seen(place)
    assert found["versioning"] == [("warn", "versioning is off: who has the credentials can destroy a backup for good")]
    assert found["public access"][0][0] == "warn"
    assert found["region"] == [("ok", "the bucket is in us-east-1")]
    assert "s3:DeleteObject" in found["rights"][0][1]


def test_protect_sets_it_all_and_doctor_is_content(place, client, bucket):
    write(place, bucket, 'lock = "31d"')
    done = protect(place.loaded, place.context(), dry_run=True)
    assert "Status" not in client.get_bucket_versioning(Bucket=bucket)
    assert protect(place.loaded, place.context()).changed == done.changed
    assert {topic: f for topic, f in seen(place).items() if {state for state, _ in f} != {"ok"}} == {}
    assert protect(place.loaded, place.context()).changed == ()
    assert client.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    place.init()
    assert place.vault().store.locked_until("vault.json")
    diagnoses = doctor(place.loaded, place.context())
    assert [d.what for d in diagnoses if d.area == "store" and d.state != "ok"] == []


def test_protect_keeps_the_rules_and_statements_that_are_there(place, client, bucket):
    theirs = {"ID": "logs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [theirs]})
    protect(place.loaded, place.context())
    rules = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert [rule["ID"] for rule in rules] == ["logs", "keepwell-old-versions"]


def test_tls_is_demanded_of_everybody_and_statements_of_others_stay(place, client, bucket, moto):
    # The emulator speaks plain HTTP; told that it is not so, keepwell demands TLS.
    at = dataclasses.replace(open_bucket(f"s3://{bucket}/leads", moto.options), endpoint="https://objects.example.org")
    assert [s.state for s in examine(at, Wants(tls="1.3")) if s.topic == "tls"] == ["warn"]
    allow = {
        "Sid": "Theirs",
        "Effect": "Allow",
        "Principal": {"AWS": "arn:aws:iam::123456789012:root"},
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket}/*",
    }
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [allow]}))
    for wants, demands in (
        (Wants(), [{"Bool": {"aws:SecureTransport": "false"}}]),
        (Wants(tls="1.3"), [{"Bool": {"aws:SecureTransport": "false"}}, {"NumericLessThan": {"s3:TlsVersion": "1.3"}}]),
    ):
        (change,) = (change for change in changes(at, wants) if change.topic == "tls")
        change.apply()
        statements = json.loads(client.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
        assert statements[0] == allow
        assert [statement["Condition"] for statement in statements[1:]] == demands
        assert [s.state for s in examine(at, wants) if s.topic == "tls"] == ["ok"]
        assert [change for change in changes(at, wants) if change.topic == "tls"] == []


def test_a_vault_over_plain_http_is_refused_where_the_policy_demands_tls(place, bucket):
    write(place, bucket, 'tls_min = "1.3"')
    with pytest.raises(StoreError, match="without TLS"):
        place.vault()
    # The demand would lock keepwell out.
    assert not [what for what in protect(place.loaded, place.context()).changed if "TLS" in what]


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ({"Expiration": {"Days": 30}}, "deletes objects of the vault by their age"),
        ({"Transitions": [{"Days": 30, "StorageClass": "DEEP_ARCHIVE"}]}, "DEEP_ARCHIVE"),
    ],
)
def test_a_lifecycle_rule_that_would_destroy_the_vault_is_found(place, client, bucket, rule, what):
    for prefix, state in (("", "fail"), ("leads/packs/", "fail"), ("other/", "warn")):
        whole = {"ID": "bad", "Status": "Enabled", "Filter": {"Prefix": prefix}, **rule}
        client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [whole]})
        found = seen(place)["lifecycle"]
        assert found[0][0] == state
        assert (what in found[0][1]) == (state == "fail")


def test_a_bucket_that_lets_everybody_in_is_found(place, client, bucket):
    client.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert ("fail", "the bucket's ACL lets everybody in") in seen(place)["public access"]


def test_an_object_that_somebody_overwrote_is_found(place, client, bucket):
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    place.init()
    assert seen(place)["tampering"][0][0] == "ok"
    client.put_object(Bucket=bucket, Key="leads/vault.json", Body=b"ransom")
    state, text = seen(place)["tampering"][0]
    assert state == "fail"
    assert "leads/vault.json" in text


def test_a_vault_that_somebody_deleted_is_found(place, client, bucket):
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    place.init()
    for entry in client.list_objects_v2(Bucket=bucket)["Contents"]:
        client.delete_object(Bucket=bucket, Key=entry["Key"])
    state, text = seen(place)["tampering"][0]
    assert state == "fail"
    assert "its versions are still there" in text


def test_doctor_leaves_nothing_behind_in_the_bucket(place, client, bucket):
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    seen(place)
    found = client.list_object_versions(Bucket=bucket)
    assert not found.get("Versions")
    assert not found.get("DeleteMarkers")


def test_only_buckets_of_s3_can_be_protected(tmp_path):
    place = Workplace(tmp_path / "work")
    place.folder.mkdir()
    place.write_policy()
    with pytest.raises(UsageError, match="no S3 bucket"):
        protect(place.loaded, place.context())
    with pytest.raises(UsageError, match="no copy 'offsite'"):
        protect(place.loaded, place.context(), copy="offsite")
    assert list(examine_bucket(place.loaded.policy.vault, place.folder)) == []
