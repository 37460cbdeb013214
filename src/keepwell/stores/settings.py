"""What the strategy demands of an S3 bucket beside its objects: looked at here, set in `protect.py`."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from keepwell.stores import aws
from keepwell.stores.aws import S3Bucket
from keepwell.stores.probe import PREFIX as PROBES

State: TypeAlias = Literal["ok", "warn", "fail"]
BLOCKS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
_EVERYONE = ("groups/global/AllUsers", "groups/global/AuthenticatedUsers")
_UNKNOWN_HERE = {"NotImplemented", "MethodNotAllowed", "501", "405", "UnsupportedOperation"}
_COLD = {"GLACIER", "DEEP_ARCHIVE"}
_PROTECT = "keepwell store protect (with an administrator's credentials)"


@dataclass(frozen=True)
class Wants:
    """What the policy says about the bucket."""

    locked: bool = False
    tls: str | None = None
    kms_key: str = ""


@dataclass(frozen=True)
class Setting:
    """One thing that was looked at."""

    topic: str
    """region, encryption, versioning, public access, lifecycle, object lock, tls, rights, tampering."""
    state: State
    what: str
    mend: str = ""


def examine(bucket: S3Bucket, wants: Wants) -> Iterator[Setting]:
    """Changes nothing but for one small object below `probes/`, put to see whether it can be deleted. Raises nothing:
    what cannot be read is told as such.
    """
    looks: list[tuple[str, str, Callable[[], Iterator[Setting]]]] = [
        ("region", "s3:GetBucketLocation", lambda: _region(bucket)),
        ("encryption", "s3:GetEncryptionConfiguration", lambda: _encryption(bucket, wants)),
        ("versioning", "s3:GetBucketVersioning", lambda: _versioning(bucket)),
        ("public access", "s3:GetBucketPublicAccessBlock", lambda: _public(bucket)),
        ("lifecycle", "s3:GetLifecycleConfiguration", lambda: _lifecycle(bucket)),
        ("object lock", "s3:GetBucketObjectLockConfiguration", lambda: _lock(bucket, wants)),
        ("tls", "s3:GetBucketPolicy", lambda: _tls(bucket, wants)),
        ("tampering", "s3:ListBucketVersions", lambda: _tampering(bucket)),
        ("rights", "s3:PutObject", lambda: _rights(bucket, wants)),
    ]
    for topic, right, look in looks:
        try:
            yield from look()
        except Exception as error:
            code = aws.code_of(error)
            if code in _UNKNOWN_HERE:
                yield Setting(topic, "ok", f"this server has no such setting ({code})")
            elif code in {"AccessDenied", "403"}:
                yield Setting(
                    topic,
                    "warn",
                    "cannot be seen with these credentials",
                    f"Give them {right}, or look with an administrator's.",
                )
            else:
                failure = aws.explain(error, bucket.url, "looked at")
                yield Setting(topic, "fail", failure.message, failure.hint)


def read(ask: Callable[..., Any], missing: set[str], **arguments: Any) -> dict[str, Any] | None:
    """The answer; None where the bucket has no such setting. Raises botocore's errors."""
    try:
        found: dict[str, Any] = ask(**arguments)
    except Exception as error:
        if aws.code_of(error) in missing:
            return None
        raise
    return found


def encryption_of(bucket: S3Bucket) -> list[dict[str, Any]] | None:
    """The rules of encryption at rest; None where the server does not know such a thing (Ceph answers with something else)."""
    missing = {"ServerSideEncryptionConfigurationNotFoundError"}
    found = read(bucket.client.get_bucket_encryption, missing, Bucket=bucket.name)
    if found is None:
        return []
    rules: list[dict[str, Any]] | None = found.get("ServerSideEncryptionConfiguration", {}).get("Rules")
    return rules


def policy_of(bucket: S3Bucket) -> dict[str, Any]:
    found = read(bucket.client.get_bucket_policy, {"NoSuchBucketPolicy"}, Bucket=bucket.name)
    policy: dict[str, Any] = json.loads(found["Policy"]) if found else {"Version": "2012-10-17", "Statement": []}
    return policy


def rules_of(bucket: S3Bucket) -> list[dict[str, Any]]:
    found = read(bucket.client.get_bucket_lifecycle_configuration, {"NoSuchLifecycleConfiguration"}, Bucket=bucket.name)
    rules: list[dict[str, Any]] = found.get("Rules", []) if found else []
    return rules


def demands_tls(policy: dict[str, Any], least: str | None) -> bool:
    """Whether the bucket's own policy refuses plain HTTP and, where asked, older versions of TLS."""
    plain = old = False
    for statement in policy.get("Statement", []):
        if statement.get("Effect") != "Deny":
            continue
        conditions = statement.get("Condition", {})
        plain |= str(conditions.get("Bool", {}).get("aws:SecureTransport", "")).lower() == "false"
        version = conditions.get("NumericLessThan", {}).get("s3:TlsVersion")
        with contextlib.suppress(TypeError, ValueError):
            old |= least is not None and float(version) >= float(least)
    return plain and (old or least is None)


def _region(bucket: S3Bucket) -> Iterator[Setting]:
    found = bucket.client.get_bucket_location(Bucket=bucket.name).get("LocationConstraint") or "us-east-1"
    if bucket.region and found != bucket.region and not bucket.endpoint:
        yield Setting(
            "region",
            "fail",
            f"the bucket is in {found}, and the policy (or AWS_REGION) says {bucket.region}",
            "The strategy wants backups in the region of production: correct the option region, or use another bucket.",
        )
    else:
        yield Setting("region", "ok", f"the bucket is in {found}")


def _encryption(bucket: S3Bucket, wants: Wants) -> Iterator[Setting]:
    rules = encryption_of(bucket)
    if rules is None:
        yield Setting("encryption", "ok", "this server has no such setting")
        return
    rule: dict[str, Any] = next(
        (r["ApplyServerSideEncryptionByDefault"] for r in rules if "ApplyServerSideEncryptionByDefault" in r), {}
    )
    kind, key = rule.get("SSEAlgorithm", ""), rule.get("KMSMasterKeyID", "")
    if not kind:
        yield Setting(
            "encryption",
            "warn",
            "the bucket does not encrypt at rest (what keepwell writes is encrypted with AES-256 all the same)",
            _PROTECT,
        )
    elif wants.kms_key and wants.kms_key not in key:
        yield Setting(
            "encryption", "warn", f"the bucket encrypts with {kind}, not with the key {wants.kms_key}", _PROTECT
        )
    else:
        yield Setting("encryption", "ok", f"the bucket encrypts at rest with {kind}" + (f", key {key}" if key else ""))


def _versioning(bucket: S3Bucket) -> Iterator[Setting]:
    found = bucket.client.get_bucket_versioning(Bucket=bucket.name).get("Status", "")
    if found == "Enabled":
        yield Setting("versioning", "ok", "the bucket keeps what is deleted or overwritten as versions")
    else:
        was = "was suspended" if found else "is off"
        yield Setting(
            "versioning", "warn", f"versioning {was}: who has the credentials can destroy a backup for good", _PROTECT
        )


def _public(bucket: S3Bucket) -> Iterator[Setting]:
    acl = bucket.client.get_bucket_acl(Bucket=bucket.name)
    if any(str(grant.get("Grantee", {}).get("URI", "")).endswith(_EVERYONE) for grant in acl.get("Grants", [])):
        yield Setting("public access", "fail", "the bucket's ACL lets everybody in", _PROTECT)
    status = read(bucket.client.get_bucket_policy_status, {"NoSuchBucketPolicy", *_UNKNOWN_HERE}, Bucket=bucket.name)
    if status and status.get("PolicyStatus", {}).get("IsPublic"):
        yield Setting(
            "public access", "fail", "the bucket's policy lets everybody in", "Take that statement out of it."
        )
    found = read(bucket.client.get_public_access_block, {"NoSuchPublicAccessBlockConfiguration"}, Bucket=bucket.name)
    blocks = found["PublicAccessBlockConfiguration"] if found else {}
    open_ = [name for name in BLOCKS if not blocks.get(name)]
    if open_:
        yield Setting("public access", "warn", f"the bucket could be made public: {', '.join(open_)} not set", _PROTECT)
    else:
        yield Setting("public access", "ok", "the bucket cannot be made public")


def _lifecycle(bucket: S3Bucket) -> Iterator[Setting]:
    rules = [rule for rule in rules_of(bucket) if rule.get("Status") == "Enabled" and _concerns(rule, bucket.prefix)]
    bad = False
    for rule in rules:
        name = rule.get("ID", "without a name")
        expires = rule.get("Expiration", {})
        if expires.get("Days") or expires.get("Date"):
            bad = True
            yield Setting(
                "lifecycle",
                "fail",
                f"the lifecycle rule {name!r} deletes objects of the vault by their age: backups share objects, so it destroys "
                "newer ones with the old",
                "Take the rule out, or limit it to another prefix. How long backups stay is the policy's keep.",
            )
        cold = {move.get("StorageClass") for move in rule.get("Transitions", [])} & _COLD
        if cold:
            bad = True
            yield Setting(
                "lifecycle",
                "fail",
                f"the lifecycle rule {name!r} moves objects to {', '.join(sorted(cold))}, where they cannot be read at once",
                "Take the rule out, or limit it to another prefix: a restore could take hours or days to begin.",
            )
    old = any(rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays") for rule in rules)
    if old:
        yield Setting("lifecycle", "ok", "versions that are no longer current are deleted after a time")
    elif not bad:
        yield Setting(
            "lifecycle", "warn", "versions of what prune deleted stay for ever, if versioning is on, and cost", _PROTECT
        )


def _lock(bucket: S3Bucket, wants: Wants) -> Iterator[Setting]:
    missing = {"ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration"}
    found = read(bucket.client.get_object_lock_configuration, missing, Bucket=bucket.name)
    on = bool(found) and (found or {}).get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled"
    if on:
        used = "" if wants.locked else '; the policy does not use it (lock = "30d")'
        yield Setting("object lock", "ok", f"the bucket has object lock{used}")
    elif wants.locked:
        yield Setting("object lock", "fail", "the bucket has no object lock, and the policy's lock needs it", _PROTECT)
    else:
        yield Setting("object lock", "ok", "not used")


def _tls(bucket: S3Bucket, wants: Wants) -> Iterator[Setting]:
    if bucket.endpoint.startswith("http://"):
        yield Setting("tls", "ok", "not used: the policy's endpoint is plain HTTP")
    elif demands_tls(policy_of(bucket), wants.tls):
        yield Setting("tls", "ok", f"the bucket refuses what is not encrypted on the way{_least(wants)}")
    else:
        yield Setting("tls", "warn", f"the bucket's policy does not demand TLS{_least(wants)} of everybody", _PROTECT)


def _least(wants: Wants) -> str:
    return f" ({wants.tls} or newer)" if wants.tls else ""


def _tampering(bucket: S3Bucket) -> Iterator[Setting]:
    """Keepwell never overwrites, and deletes only what a prune condemned."""
    hidden: set[str] = set()
    written: Counter[str] = Counter()
    deleted: Counter[str] = Counter()
    for page in bucket.client.get_paginator("list_object_versions").paginate(Bucket=bucket.name, Prefix=bucket.prefix):
        written.update(entry["Key"] for entry in page.get("Versions", []))
        for entry in page.get("DeleteMarkers", []):
            deleted[entry["Key"]] += 1
            if entry.get("IsLatest"):
                hidden.add(entry["Key"])
    # A pack may come back under its name after it was deleted.
    overwritten = [key for key, times in written.items() if times > deleted[key] + 1]
    if overwritten:
        yield Setting(
            "tampering",
            "fail",
            f"{len(overwritten):,} objects were overwritten, {min(overwritten)} for one: keepwell never does that",
            "Find out who did. The first versions are still there: delete the later ones (aws s3api delete-object with "
            "--version-id), then keepwell check --data.",
        )
    elif hidden and bucket.prefix + "vault.json" in hidden:
        yield Setting(
            "tampering",
            "fail",
            f"the vault was deleted ({len(hidden):,} objects), and its versions are still there",
            "Delete the delete markers (aws s3api delete-object with their --version-id): the objects are then back.",
        )
    else:
        yield Setting("tampering", "ok", "no object was overwritten")


def _rights(bucket: S3Bucket, wants: Wants) -> Iterator[Setting]:
    name = bucket.prefix + PROBES + secrets.token_hex(16)
    made = bucket.client.put_object(Bucket=bucket.name, Key=name, Body=b"can this be deleted?\n")
    version = {"VersionId": made["VersionId"]} if made.get("VersionId") else {}
    try:
        bucket.client.delete_object(Bucket=bucket.name, Key=name, **version)
        right = "s3:DeleteObjectVersion" if version else "s3:DeleteObject"
    except Exception as error:
        if aws.code_of(error) not in {"AccessDenied", "403"}:
            raise
        right = ""
    if right and not wants.locked:
        yield Setting(
            "rights",
            "warn",
            f"these credentials can delete ({right}): who steals them from this machine can destroy the backups",
            'Lock the objects ([vault] lock = "30d"); or take that right from the account that writes, and let `keepwell prune` '
            "run elsewhere with another.",
        )
    elif right:
        yield Setting("rights", "ok", "these credentials can delete, but not what is locked")
    else:
        yield Setting("rights", "ok", "these credentials cannot delete for good; `keepwell prune` needs others")


def _concerns(rule: dict[str, Any], prefix: str) -> bool:
    """Whether a rule of the lifecycle touches what is below the prefix."""
    where = rule.get("Filter", {})
    of = where.get("Prefix", where.get("And", {}).get("Prefix", rule.get("Prefix", ""))) or ""
    return bool(of.startswith(prefix) or prefix.startswith(of))
