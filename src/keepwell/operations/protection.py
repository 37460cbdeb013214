"""What surrounds the vault: the settings of its bucket and of its copies' buckets, looked at and set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from keepwell.core.errors import KeepwellError, UnsafeStore, UsageError
from keepwell.core.streams import Context, Json
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.vault import StorePlace
from keepwell.stores import open_store
from keepwell.stores.probe import verify_conditional_put

Finding: TypeAlias = tuple[Literal["ok", "warn", "fail"], str, str]
"""State, what, mend."""


def examine_bucket(place: StorePlace, base: Path) -> Iterator[Finding]:
    """What the strategy demands of a bucket, against how it is. Nothing for a folder or an SSH server. Raises nothing."""
    scheme = urlsplit(place.store).scheme
    if scheme in {"file", "sftp"}:
        return
    if scheme != "s3":
        yield (
            "warn",
            f"the settings of {scheme}:// buckets are not looked at",
            "See for yourself: versioning (or soft delete) on, no public access, no lifecycle rule that deletes by age.",
        )
        return
    from keepwell.stores.aws import open_bucket
    from keepwell.stores.settings import Wants, examine

    try:
        bucket = open_bucket(place.store, place.store_options(base))
    except KeepwellError as error:
        yield "warn", f"the settings of the bucket were not looked at: {error.message}", error.hint
        return
    for setting in examine(bucket, Wants(place.lock is not None, place.tls_min, _kms_key(place))):
        yield setting.state, f"{setting.topic}: {setting.what}", setting.mend


@dataclass(frozen=True)
class ProtectResult:
    store: str
    dry_run: bool
    changed: tuple[str, ...]
    """For people, in order: `versioning on`."""
    left: tuple[Finding, ...]
    """What is still to be looked at by a person."""

    def json(self) -> dict[str, Json]:
        left: list[Json] = [{"state": state, "what": what, "mend": mend} for state, what, mend in self.left]
        return {"store": self.store, "dry_run": self.dry_run, "changed": list(self.changed), "left": left}


def protect(loaded: LoadedPolicy, context: Context, *, copy: str | None = None, dry_run: bool = False) -> ProtectResult:
    """Sets what the strategy demands of the bucket of the vault, or of a copy's. Nothing that is there is taken away.

    Raises UsageError where there is no such copy or the store is no S3 bucket, StoreError where a setting cannot be read or set,
    UnsafeStore where the bucket overwrites objects once it has versions; then versioning is suspended again.
    """
    place: StorePlace = loaded.policy.vault
    if copy is not None:
        found = [policy for policy in loaded.policy.copies if policy.name == copy]
        if not found:
            raise UsageError(f"the policy has no copy {copy!r}", hint="Names are under [[copies]] in keepwell.toml.")
        place = found[0]
    if urlsplit(place.store).scheme != "s3":
        raise UsageError(
            f"{place.store} is no S3 bucket, and only of these can keepwell set anything",
            hint="docs/how-to/stores.md says what to look at elsewhere.",
        )
    from keepwell.stores import aws
    from keepwell.stores.protect import changes, clear_probes
    from keepwell.stores.settings import Wants

    bucket = aws.open_bucket(place.store, place.store_options(loaded.base))
    done = []
    wants = Wants(place.lock is not None, place.tls_min, _kms_key(place))
    # A lock cannot be turned off again, and a policy may shut out the very address that is used here: so before all else.
    if not dry_run and any(change.topic == "object lock" for change in changes(bucket, wants)):
        _refuse_overwriting(loaded.base, place)
        clear_probes(bucket)
    for change in changes(
        bucket, wants
    ):  # each is found when those before it were made: two may change the same policy
        context.progress.note(f"{'Would set' if dry_run else 'Setting'}: {change.what}")
        if not dry_run:
            try:
                change.apply()
            except Exception as error:
                raise aws.explain(error, bucket.url, f"changed ({change.topic})") from None
            if change.undo is not None:
                _refuse_overwriting(loaded.base, place, change.undo)
                clear_probes(bucket)
        done.append(change.what)
    left = () if dry_run else tuple(f for f in examine_bucket(place, loaded.base) if f[0] != "ok")
    return ProtectResult(place.store, dry_run, tuple(done), left)


def _refuse_overwriting(base: Path, place: StorePlace, undo: Callable[[], object] | None = None) -> None:
    """Some servers (Ceph) honour conditional puts only in buckets without versions."""
    with contextlib.closing(open_store(place.store, place.store_options(base))) as store:
        try:
            verify_conditional_put(store)
        except UnsafeStore as error:
            if undo is None:
                raise
            try:
                undo()
            except Exception as failure:
                raise UnsafeStore(
                    f"{error.message} Versioning was turned on, and could not be suspended again: {failure}.",
                    hint="Suspend the bucket's versioning yourself, or use another server.",
                ) from None
            raise UnsafeStore(
                f"With versioning the bucket of {store.url} overwrites objects, although it is asked not to: versioning was "
                "suspended again.",
                hint="On this server leave versioning off and do without object lock, or use a server that has both "
                "(Amazon S3, MinIO). keepwell doctor says what else the bucket lacks.",
            ) from None


def _kms_key(place: StorePlace) -> str:
    key = place.options.get("sse_kms_key_id", "")
    return key if isinstance(key, str) else ""
