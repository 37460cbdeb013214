"""Buckets of uploaded files: opened as the policy says, looked at, and restored into."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from keepwell.core.errors import KeepwellError, SourceError, StoreError, UsageError
from keepwell.operations.places import Place
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.models import BucketSource
from keepwell.stores.objects import BucketObjects
from keepwell.stores.tls import require_tls

BUCKETS = ("s3://", "gs://", "az://")
_LOOKED_AT = 1000
Finding: TypeAlias = tuple[Literal["ok", "warn", "fail"], str, str]
"""State, what, mend."""


def objects_of(loaded: LoadedPolicy, source: BucketSource) -> BucketObjects:
    """The bucket of a source; little is sent yet. Raises SourceError."""
    return _opened(source, loaded.base)


def _opened(source: BucketSource, base: Path) -> BucketObjects:
    try:
        options = source.store_options(base)
        if source.tls_min is not None:
            require_tls(source.store, options, source.tls_min)
        return BucketObjects(source.store, options)
    except StoreError as error:
        raise SourceError(error.message, hint=error.hint) from None


def bucket_place(loaded: LoadedPolicy, environment: str, name: str, to: str) -> Place:
    """An empty bucket or prefix, with the options of the source where it is of the same service. Raises UsageError, SourceError."""
    from keepwell.sources import bucket

    known = loaded.policy.environments.get(environment)
    source = known.sources.get(name) if known else None
    options = {}
    if isinstance(source, BucketSource) and urlsplit(source.store).scheme == urlsplit(to).scheme:
        options = source.store_options(loaded.base)
    try:
        objects = BucketObjects(to, options)
    except StoreError as error:
        raise UsageError(error.message, hint=error.hint) from None
    return Place(bucket.Target(objects=objects), objects.url)


def examine_uploads(source: BucketSource, base: Path) -> Iterator[Finding]:
    """Whether it can be read, and whether it keeps what is deleted or overwritten between two backups. Raises SourceError."""
    objects = _opened(source, base)
    try:
        first = list(itertools.islice(objects.list(), _LOOKED_AT))
        found = next((state for state in first if state.size), None)  # what is empty may be the marker of a folder
    except StoreError as error:
        raise SourceError(error.message, hint=error.hint) from None
    if not first and not source.allow_empty:
        yield "fail", f"there is nothing in {objects.url}", "Correct the bucket or prefix, or write allow_empty = true."
    elif found is None:
        yield "ok", f"{objects.url} can be listed", ""
    else:
        try:
            next(objects.open(found).blocks, None)
            yield "ok", f"{objects.url} can be read", ""
        except StoreError as error:
            yield "fail", error.message, error.hint
    yield _versions(source, base)


def _versions(source: BucketSource, base: Path) -> Finding:
    scheme = urlsplit(source.store).scheme
    if scheme != "s3":
        return (
            "warn",
            f"whether {source.store} keeps old versions is not verified: keepwell cannot ask {scheme}:// for it",
            "See for yourself that object versioning is on."
            if scheme == "gs"
            else "See for yourself that blob versioning, or soft delete, is on.",
        )
    from keepwell.stores import aws

    try:
        bucket = aws.open_bucket(source.store, source.store_options(base))
        state = bucket.client.get_bucket_versioning(Bucket=bucket.name).get("Status", "")
    except KeepwellError as error:
        return "warn", f"whether the bucket keeps old versions was not looked at: {error.message}", error.hint
    except Exception as error:
        told = aws.explain(error, source.store, "looked at")
        return (
            "warn",
            f"whether the bucket keeps old versions cannot be seen: {told.message}",
            "Give the credentials s3:GetBucketVersioning, or look with an administrator's.",
        )
    if state == "Enabled":
        return "ok", "the bucket keeps what is deleted or overwritten as versions", ""
    how = "was suspended" if state else "is off"
    return (
        "warn",
        f"the bucket's own versioning {how}: what is overwritten or deleted between two backups is lost",
        f"Turn it on: aws s3api put-bucket-versioning --bucket {bucket.name} --versioning-configuration Status=Enabled",
    )
