"""Setting what the strategy demands of an S3 bucket. Nothing that is there already is taken away."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from keepwell.stores import aws
from keepwell.stores.aws import S3Bucket
from keepwell.stores.probe import PREFIX as PROBES
from keepwell.stores.settings import BLOCKS, Wants, demands_tls, encryption_of, policy_of, read, rules_of

RULE = "keepwell-old-versions"
OLD_VERSIONS_DAYS = 30
_SIDS = ("KeepwellOnlyTls", "KeepwellTlsVersion")


@dataclass(frozen=True)
class Change:
    """One setting that is not as it should be. `apply` sets it."""

    topic: str
    what: str
    """For people: `versioning on`."""
    apply: Callable[[], object]
    undo: Callable[[], object] | None = None
    """Where the setting can make the server overwrite objects."""


def changes(bucket: S3Bucket, wants: Wants) -> Iterator[Change]:
    """What is to be set, in the order in which it must be. Raises StoreError where a setting cannot be read."""
    looks: list[Callable[[], Iterator[Change]]] = [
        lambda: _encryption(bucket, wants),
        lambda: _versioning(bucket),
        lambda: _public(bucket),
        lambda: _lock(bucket, wants),
        lambda: _lifecycle(bucket),
        lambda: _tls(bucket, wants),
    ]
    for look in looks:
        try:
            yield from look()
        except Exception as error:
            raise aws.explain(error, bucket.url, "looked at") from None


def _encryption(bucket: S3Bucket, wants: Wants) -> Iterator[Change]:
    rules = encryption_of(bucket)
    if rules is None:
        return
    if rules and (not wants.kms_key or wants.kms_key in str(rules)):
        return
    default = (
        {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": wants.kms_key} if wants.kms_key else {"SSEAlgorithm": "AES256"}
    )
    yield Change(
        "encryption",
        f"encryption at rest with {'the key ' + wants.kms_key if wants.kms_key else 'AES-256'}",
        lambda: bucket.client.put_bucket_encryption(
            Bucket=bucket.name,
            ServerSideEncryptionConfiguration={"Rules": [{"ApplyServerSideEncryptionByDefault": default}]},
        ),
    )


def _versioning(bucket: S3Bucket) -> Iterator[Change]:
    if bucket.client.get_bucket_versioning(Bucket=bucket.name).get("Status") != "Enabled":
        yield Change(
            "versioning",
            "versioning on",
            lambda: _set_versioning(bucket, "Enabled"),
            undo=lambda: _set_versioning(bucket, "Suspended"),
        )


def clear_probes(bucket: S3Bucket) -> None:
    """Deletes what trying the store left below `probes/`, in all versions: some servers lock empty buckets only."""
    prefix = f"{bucket.prefix.rstrip('/')}/{PROBES}".lstrip("/")
    found = bucket.client.list_object_versions(Bucket=bucket.name, Prefix=prefix)
    for each in (*found.get("Versions", ()), *found.get("DeleteMarkers", ())):
        bucket.client.delete_object(Bucket=bucket.name, Key=each["Key"], VersionId=each["VersionId"])


def _set_versioning(bucket: S3Bucket, status: str) -> None:
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": status})


def _public(bucket: S3Bucket) -> Iterator[Change]:
    missing = {"NoSuchPublicAccessBlockConfiguration"}
    found = read(bucket.client.get_public_access_block, missing, Bucket=bucket.name)
    blocks = found["PublicAccessBlockConfiguration"] if found else {}
    if not all(blocks.get(name) for name in BLOCKS):
        yield Change(
            "public access",
            "no public access, by policy or by ACL",
            lambda: bucket.client.put_public_access_block(
                Bucket=bucket.name, PublicAccessBlockConfiguration=dict.fromkeys(BLOCKS, True)
            ),
        )


def _lock(bucket: S3Bucket, wants: Wants) -> Iterator[Change]:
    if not wants.locked:
        return
    found = read(bucket.client.get_object_lock_configuration, aws.NO_LOCK, Bucket=bucket.name)
    if not found or found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
        yield Change(
            "object lock",
            "object lock on (for good: it cannot be turned off again; each object's lock comes from keepwell)",
            lambda: bucket.client.put_object_lock_configuration(
                Bucket=bucket.name, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"}
            ),
        )


def _lifecycle(bucket: S3Bucket) -> Iterator[Change]:
    rules = rules_of(bucket)
    if any(rule.get("ID") == RULE for rule in rules):
        return
    ours: dict[str, Any] = {
        "ID": RULE,
        "Status": "Enabled",
        "Filter": {"Prefix": bucket.prefix},
        "NoncurrentVersionExpiration": {"NoncurrentDays": OLD_VERSIONS_DAYS},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
    }
    yield Change(
        "lifecycle",
        f"versions that are no longer current are deleted after {OLD_VERSIONS_DAYS} days",
        lambda: bucket.client.put_bucket_lifecycle_configuration(
            Bucket=bucket.name, LifecycleConfiguration={"Rules": [*rules, ours]}
        ),
    )


def _tls(bucket: S3Bucket, wants: Wants) -> Iterator[Change]:
    policy = policy_of(bucket)
    if bucket.endpoint.startswith("http://") or demands_tls(policy, wants.tls):
        return  # over plain HTTP the demand would lock keepwell out
    everything = [f"arn:aws:s3:::{bucket.name}", f"arn:aws:s3:::{bucket.name}/*"]
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": everything}
    ours: list[dict[str, Any]] = [
        {"Sid": _SIDS[0], **deny, "Condition": {"Bool": {"aws:SecureTransport": "false"}}},
    ]
    if wants.tls:
        ours.append({"Sid": _SIDS[1], **deny, "Condition": {"NumericLessThan": {"s3:TlsVersion": wants.tls}}})
    others = [statement for statement in policy.get("Statement", []) if statement.get("Sid") not in _SIDS]
    wanted = {**policy, "Statement": [*others, *ours]}
    yield Change(
        "tls",
        f"only TLS{' ' + wants.tls + ' or newer' if wants.tls else ''}, for everybody",
        lambda: bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=json.dumps(wanted)),
    )
