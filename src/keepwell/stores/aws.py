"""Amazon's own library for what obstore has no calls for: object lock, versions, and the settings of buckets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from keepwell.core.errors import ObjectMissing, StoreDenied, StoreError, StoreFull

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_DENIED = {"AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "403"}
_MISSING = {"NoSuchKey", "NoSuchVersion", "404"}
NO_LOCK = {"ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration"}
"""What servers call it when a bucket has no object lock."""
_FULL = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "StorageFull", "507"}


@dataclass(frozen=True)
class S3Bucket:
    """A bucket, the client to ask it with, and where in it the store is."""

    client: Any
    name: str
    prefix: str
    """Empty, or with a slash at the end."""
    endpoint: str
    """Empty: Amazon's."""
    region: str
    url: str


def open_bucket(url: str, options: Mapping[str, str] | None = None) -> S3Bucket:
    """The bucket of a store's address, with the store's options; nothing is sent. Raises StoreError."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise StoreError(
            f"Object lock and the settings of the bucket of {url} need Amazon's library boto3, which is not installed.",
            hint="pip install 'keepwell[aws]'",
        ) from None
    parts = urlsplit(url)
    given = dict(options or {})
    endpoint = given.get("endpoint") or next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
    region = given.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    virtual = given.get("virtual_hosted_style_request") == "true" or not endpoint
    client = boto3.client(
        "s3",
        endpoint_url=endpoint or None,
        region_name=region or "us-east-1",
        aws_access_key_id=given.get("access_key_id"),
        aws_secret_access_key=given.get("secret_access_key"),
        aws_session_token=given.get("session_token"),
        config=Config(
            connect_timeout=float(given.get("connect_timeout", 4)),
            read_timeout=float(given.get("transfer_timeout", 600)) / 10,
            retries={"total_max_attempts": int(given.get("retries", 5)) + 1, "mode": "standard"},
            s3={"addressing_style": "virtual" if virtual else "path"},
            # Older servers (Ceph before Squid, MinIO of old) know no trailing checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            max_pool_connections=32,
        ),
    )
    prefix = parts.path.strip("/")
    return S3Bucket(client, parts.netloc, f"{prefix}/" if prefix else "", endpoint, region, url.rstrip("/"))


def code_of(error: Exception) -> str:
    """The service's own word for what went wrong: `AccessDenied`, `412`; empty where there was no answer."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def explain(error: Exception, url: str, done: str, name: str = "") -> StoreError:
    """The error of `core.errors` for botocore's; `done` is the participle of what was tried."""
    code = code_of(error)
    said = str(getattr(error, "response", {}).get("Error", {}).get("Message", ""))[:200]
    what = f"{name} in {url}" if name else url
    why = f"{code} ({said})" if said and said != code else code
    if code == "NoSuchBucket":
        return StoreError(
            f"{what} could not be {done}: there is no such bucket.",
            hint="Create the bucket, or mend the store's address in the policy. keepwell creates none by itself.",
        )
    if code in _MISSING:
        return ObjectMissing(f"{name} is not in {url}.")
    if code in _DENIED or type(error).__name__ in {"NoCredentialsError", "PartialCredentialsError"}:
        return StoreDenied(
            f"{what} could not be {done}: the server refused ({why or 'there are no credentials'}).",
            hint="Look at the credentials and their rights (docs/how-to/stores.md, section Object lock).",
        )
    if code in _FULL:
        return StoreFull(
            f"{what} could not be {done}: no space or quota left ({why}).",
            hint="Raise the quota, free space, or run `keepwell prune`.",
        )
    if code:
        return StoreError(
            f"{what} could not be {done}: the server answered {why}.", hint="Look at the store's address and options."
        )
    return StoreError(
        f"{what} could not be {done}: the server cannot be reached ({type(error).__name__}).",
        hint="Look at the network, at the store's address and endpoint, and whether the server runs; then try again.",
    )
