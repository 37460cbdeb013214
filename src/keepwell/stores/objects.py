"""A bucket of somebody else's objects, through obstore: listed, read exactly as listed, and written back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from keepwell.core.clock import UTC
from keepwell.core.errors import ObjectExists, StoreError
from keepwell.core.objects import ObjectChanged, ObjectState, Opened
from keepwell.core.streams import Buffer
from keepwell.stores.cloud import connect
from keepwell.stores.cloud_errors import explain

_RANGE = 64 << 20
"""Larger objects are read in such parts, each a request of its own: a request has a time limit."""
_BLOCK = 1 << 20
_PART = 16 << 20
_WHOLE = 32 << 20
"""Up to this size an object is written by one request that creates or fails."""
_BAD_NAME = re.compile(r'[Pp]ath "(.{1,300}?)"')


class BucketObjects:
    """Nothing is sent until the first call."""

    def __init__(self, url: str, options: Mapping[str, str] | None = None) -> None:
        """Address and options as those of a store. Raises StoreError for what cannot be right."""
        link = connect(url, options)
        self._bucket, self._quick, self._bulk = link.bucket, link.quick, link.bulk

    @property
    def url(self) -> str:
        return self._bucket.url

    @property
    def md5_etags(self) -> bool:
        return self._bucket.scheme in {"s3", "gs"}

    def __repr__(self) -> str:
        return f"BucketObjects({self.url})"

    def list(self) -> Iterator[ObjectState]:
        """Page by page. Raises StoreError, also where a name has empty, `.` or `..` parts: such an object cannot be asked for."""
        try:
            for page in self._quick.list(chunk_size=1000):
                for entry in page:
                    yield _state(entry)
        except (BaseError, OSError) as error:
            if "InvalidPath" in str(error) and (found := _BAD_NAME.search(str(error))):
                raise StoreError(
                    f"{self.url} has an object called {found[1]!r}, which cannot be read: a part of its name is empty, . or ..",
                    hint="Rename it, or name a prefix in `store` that it is not below.",
                ) from None
            raise explain(error, self._bucket, "listed") from None

    def look(self, name: str) -> ObjectState:
        try:
            return _state(self._quick.head(name))
        except (BaseError, OSError) as error:
            raise explain(error, self._bucket, "looked at", name) from None

    def open(self, state: ObjectState) -> Opened:
        first = self._get(state, 0)
        now = _state(first.meta)
        if (now.size, now.etag) != (state.size, state.etag):  # a server that ignores If-Match
            raise ObjectChanged(state.name)
        return Opened(now, {str(key): str(value) for key, value in first.attributes.items()}, self._blocks(now, first))

    def _blocks(self, state: ObjectState, first: Any) -> Iterator[Buffer]:
        at, found = 0, first
        while True:
            try:
                for block in found.stream(min_chunk_size=_BLOCK):
                    at += len(block)
                    yield memoryview(block)
            except (BaseError, OSError) as error:
                raise explain(error, self._bucket, "read", state.name) from None
            if at >= state.size or not at:
                return
            found = self._get(state, at)

    def _get(self, state: ObjectState, at: int) -> Any:
        options: dict[str, Any] = {"if_match": _quoted(state.etag)} if state.etag else {}
        if state.size > _RANGE:
            options["range"] = (at, min(at + _RANGE, state.size))
        try:
            return (self._quick if state.size <= _BLOCK else self._bulk).get(state.name, options=options)
        except PreconditionError:
            raise ObjectChanged(state.name) from None
        except (BaseError, OSError) as error:
            raise explain(error, self._bucket, "read", state.name) from None

    def put(
        self, name: str, content: Iterable[Buffer], size: int, state: ObjectState, attributes: Mapping[str, str]
    ) -> None:
        """As in `Objects`; the size that arrived is compared. `state` is not kept: a service has its own clock and versions."""
        sent = 0

        def passing() -> Iterator[bytes]:
            nonlocal sent
            for block in content:
                sent += len(block)
                yield bytes(block)

        keep: Any = dict(attributes)
        try:
            if size <= _WHOLE:
                self._bulk.put(name, b"".join(passing()), attributes=keep, mode="create", use_multipart=False)
            else:
                # Multipart uploads know no condition; the caller has seen that the place is empty.
                self._bulk.put(name, passing(), attributes=keep, use_multipart=True, chunk_size=_PART)
            there = _state(self._quick.head(name))
        except AlreadyExistsError:
            raise ObjectExists(f"{name} is already in {self.url}.") from None
        except (BaseError, OSError) as error:
            raise explain(error, self._bucket, "written", name) from None
        if there.size != sent:
            raise StoreError(
                f"{name} arrived in {self.url} with {there.size} bytes; {sent} were sent.",
                hint="Something changes objects there, or on the way. Restore into a bucket that nothing else uses.",
            )


def _state(entry: Any) -> ObjectState:
    etag = entry["e_tag"]
    if etag is not None and not etag.startswith("W/"):
        etag = etag.strip('"')  # Azure's listings have it without quotes, its readings with
    return ObjectState(entry["path"], entry["size"], entry["last_modified"].astimezone(UTC), etag, entry["version"])


def _quoted(etag: str) -> str:
    return etag if etag.startswith("W/") else f'"{etag}"'
