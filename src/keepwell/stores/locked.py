"""A bucket whose objects nobody can delete for a set time: object lock (WORM) on every one of them.

obstore cannot send the headers of a lock: they belong to the signature, and it has no attribute for them. So puts and deletes go
through Amazon's own library (the extra `aws`); reading and listing stay with obstore.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any

from keepwell.core.clock import UTC, Clock, SystemClock, iso
from keepwell.core.errors import ObjectExists, ObjectMissing, StoreDenied, StoreError, UnsafeStore
from keepwell.core.streams import Buffer
from keepwell.stores import aws
from keepwell.stores.base import Lock
from keepwell.stores.cloud import CloudStore
from keepwell.stores.lockable import Renewed
from keepwell.stores.names import check_name

FREE = ("trash/", "probes/")
"""Objects below are not locked: what a prune condemned can be brought back, and nobody loses anything with them."""
_AT_ONCE = 16
_RENEW_AFTER = 0.1
"""A lock is set anew once this share of its time has passed."""
_ROUNDING = dt.timedelta(seconds=2)
_TAKEN, _AGAIN = {"PreconditionFailed", "412"}, {"ConditionalRequestConflict", "409"}
_TRIES = 5


class LockedStore(CloudStore):
    """As `CloudStore`; every object below other names than `FREE` is locked when it is written, and that is read back.

    `delete` raises StoreDenied while an object is locked, and else deletes the very version, so that its space is free.
    """

    def __init__(self, url: str, options: Mapping[str, str] | None, lock: Lock, *, clock: Clock | None = None) -> None:
        """Raises StoreError for an address or an option that cannot be right, and where boto3 is not there."""
        super().__init__(url, options)
        self.lock = lock
        self._clock = clock or SystemClock()
        self._at = aws.open_bucket(self.url, options)

    def __repr__(self) -> str:
        return f"LockedStore({self.url})"

    def put(self, name: str, data: Buffer) -> None:
        """As in `Store`. Raises also UnsafeStore where the bucket did not take the lock."""
        check_name(name)
        if name.startswith(FREE):
            super().put(name, data)
            return
        content = bytes(data)
        until = self._clock.now() + self.lock.period
        wanted = {
            **self._key(name),
            "Body": content,
            "ContentMD5": base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode(),
            "IfNoneMatch": "*",
            "ObjectLockMode": self.lock.mode.upper(),
            "ObjectLockRetainUntilDate": until,
        }
        for attempt in range(1, _TRIES + 1):
            try:
                self._at.client.put_object(**wanted)
                break
            except Exception as error:
                code = aws.code_of(error)
                if code in _TAKEN:
                    self._same_or_raise(name, content)
                    break
                if code not in _AGAIN or attempt == _TRIES:
                    raise self._explain(error, "written", name) from None
        kept = self.locked_until(name)
        if kept is None or kept < until - _ROUNDING:
            self._renew(name, until)
            kept = self.locked_until(name)
        if kept is None or kept < until - _ROUNDING:
            raise UnsafeStore(
                f"The bucket of {self.url} took {name} and did not lock it, although it was asked to.",
                hint="Use a server that honours object lock, or take lock out of the policy.",
            )

    def delete(self, name: str) -> None:
        """Raises StoreDenied while the object is locked."""
        check_name(name)
        found = self._look(name)
        if found is None:
            return
        until = found.get("ObjectLockRetainUntilDate")
        if until is not None and until > _server_time(found, self._clock):
            raise StoreDenied(
                f"{name} in {self.url} is locked until {iso(until)}.",
                hint="Nobody can delete it before; `keepwell prune` does so when it runs after that.",
            )
        version = {"VersionId": found["VersionId"]} if found.get("VersionId") else {}
        try:
            self._at.client.delete_object(**self._key(name), **version)
        except Exception as error:
            failure = self._explain(error, "deleted", name)
            if not isinstance(failure, ObjectMissing):
                raise failure from None

    def locked_until(self, name: str) -> dt.datetime | None:
        """The moment from which the object can be deleted; None where it is not locked. Raises ObjectMissing."""
        found = self._look(name)
        if found is None:
            raise ObjectMissing(f"{name} is not in {self.url}.")
        until = found.get("ObjectLockRetainUntilDate")
        return until.astimezone(UTC) if until else None

    def renew(self, names: Iterable[str]) -> Renewed:
        """Has every object locked for (nearly) the whole period again. Raises StoreError; missing ones are passed over."""
        now = self._clock.now()
        due = now + self.lock.period * (1 - _RENEW_AFTER)

        def one(name: str) -> bool:
            try:
                until = self.locked_until(name)
                if until is not None and until >= due:
                    return False
                self._renew(name, now + self.lock.period)
            except ObjectMissing:  # deleted meanwhile
                return False
            return True

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            done = list(pool.map(one, (name for name in names if not name.startswith(FREE))))
        return Renewed(len(done), sum(done))

    def _renew(self, name: str, until: dt.datetime) -> None:
        retention = {"Mode": self.lock.mode.upper(), "RetainUntilDate": until}
        try:
            self._at.client.put_object_retention(**self._key(name), Retention=retention)
        except Exception as error:
            raise self._explain(error, "locked", name) from None

    def _same_or_raise(self, name: str, content: bytes) -> None:
        """The name is taken; perhaps by this very call, a first try whose answer was lost."""
        try:
            found = self.get(name)
        except ObjectMissing:
            raise ObjectExists(f"{name} was in {self.url} a moment ago and is gone.") from None
        if found != content:
            raise ObjectExists(f"{name} is already in {self.url}, with other content.")

    def _lockable(self) -> bool:
        """Whether the bucket says that it has object lock, for servers whose refusal does not say why (Ceph)."""
        try:
            self._at.client.get_object_lock_configuration(Bucket=self._at.name)
        except Exception as error:
            return aws.code_of(error) not in aws.NO_LOCK
        return True

    def _look(self, name: str) -> dict[str, Any] | None:
        check_name(name)
        try:
            found: dict[str, Any] = self._at.client.head_object(**self._key(name))
        except Exception as error:
            failure = self._explain(error, "read", name)
            if isinstance(failure, ObjectMissing):
                return None
            raise failure from None
        return found

    def _key(self, name: str) -> dict[str, Any]:
        return {"Bucket": self._at.name, "Key": self._at.prefix + name}

    def _explain(self, error: Exception, done: str, name: str) -> StoreError:
        if isinstance(error, StoreError):
            return error
        if aws.code_of(error) in {"InvalidRequest", "InvalidArgument", "InvalidRequest400"} and (
            "ock" in str(error) or not self._lockable()
        ):
            return UnsafeStore(
                f"{name} could not be {done}: the bucket of {self.url} has no object lock ({aws.code_of(error)}).",
                hint="`keepwell store protect` turns it on where the server allows that for a bucket that exists (Amazon "
                "does). Else make a new bucket with object lock, or take lock out of the policy.",
            )
        return aws.explain(error, self.url, done, name)


def _server_time(answer: Mapping[str, Any], clock: Clock) -> dt.datetime:
    """By the server's clock, which the lock goes by."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return parsedate_to_datetime(date).astimezone(UTC)
    except (TypeError, ValueError):
        return clock.now()
