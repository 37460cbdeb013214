"""Objects in a bucket: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, through obstore.

Every put is one request that creates or fails (`If-None-Match: *`), never a multipart upload: objects of a vault
are at most some 34 MB. Credentials come from the usual environment variables (docs/how-to/stores.md).
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import obstore.store
from obstore.exceptions import AlreadyExistsError, BaseError

from keepwell.core.clock import UTC
from keepwell.core.errors import ObjectExists, ObjectMissing, StoreDenied, StoreError
from keepwell.core.streams import Buffer
from keepwell.stores.base import ObjectInfo
from keepwell.stores.cloud_errors import Bucket, explain, says_no_bucket, says_not_sent, says_past_the_end
from keepwell.stores.names import check_name, check_prefix, is_name

T = TypeVar("T")

# What a request may take, in seconds. A store that does not answer is given up after about 30.
_DEFAULTS = {"connect_timeout": 4.0, "timeout": 10.0, "transfer_timeout": 600.0, "retry_timeout": 20.0, "retries": 5.0}
_COMMON = {*_DEFAULTS, "allow_http", "endpoint"}
_SERVICE_OPTIONS = {
    "s3": {
        "access_key_id",
        "region",
        "request_payer",
        "secret_access_key",
        "server_side_encryption",
        "session_token",
        "skip_signature",
        "sse_bucket_key_enabled",
        "sse_kms_key_id",
        "virtual_hosted_style_request",
    },
    "gs": {"application_credentials", "service_account", "service_account_key", "skip_signature"},
    "az": {
        "account_key",
        "account_name",
        "authority_host",
        "client_id",
        "client_secret",
        "sas_key",
        "tenant_id",
        "token",
    },
}
_ENDPOINT_VARIABLES = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
_SMALL = 256 << 10
"""Bodies up to this size must be through within `timeout`; larger ones within `transfer_timeout`."""


class CloudStore:
    """A store in a bucket that exists. Options: docs/how-to/stores.md."""

    def __init__(self, url: str, options: Mapping[str, str] | None = None) -> None:
        """Nothing is sent yet. Raises StoreError for an address or an option that cannot be right."""
        prefix = urlsplit(url).path.strip("/")
        link = connect(url, options, fits=not prefix or is_name(prefix))
        self._url, self._bucket, self._quick, self._bulk = link.bucket.url, link.bucket, link.quick, link.bulk
        self._seen = False

    @property
    def url(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return f"CloudStore({self._url})"

    def put(self, name: str, data: Buffer) -> None:
        check_name(name)
        content = memoryview(data).cast("B")
        store = self._quick if len(content) <= _SMALL else self._bulk
        try:
            store.put(name, content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            # Perhaps made by this very call: a first try whose answer was lost, and then tried again.
            try:
                found = self.get(name)
            except ObjectMissing:
                raise ObjectExists(f"{name} was in {self._url} a moment ago and is gone.") from None
            if found != content:
                raise ObjectExists(f"{name} is already in {self._url}, with other content.") from None
        except (BaseError, OSError) as error:
            failure = explain(error, self._bucket, "written", name)
            if isinstance(failure, ObjectMissing):
                failure = StoreError(f"{name} could not be written to {self._url}: the server says 404, not found.")
            if isinstance(failure, StoreDenied) or says_not_sent(error) or not self._has(name, content):
                raise failure from None
        self._seen = True

    def get(self, name: str) -> bytes:
        check_name(name)
        return self._read(name, lambda: bytes(self._bulk.get(name).bytes()))

    def get_range(self, name: str, start: int, length: int) -> bytes:
        check_name(name)
        if start < 0 or length < 0:
            raise StoreError(f"{name!r} has no bytes {start} to {start + length}.")
        if length == 0:
            self.head(name)
            return b""
        store = self._quick if length <= _SMALL else self._bulk
        try:
            return self._read(name, lambda: bytes(store.get_range(name, start=start, length=length)))
        except _PastTheEnd:
            return b""

    def head(self, name: str) -> ObjectInfo:
        check_name(name)
        return _info(self._read(name, lambda: self._quick.head(name)))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """As in `Store`. Sorted here: a store with real folders (Azure's hierarchical ones) lists in their order."""
        check_prefix(prefix)
        try:
            found = [_info(entry) for page in self._quick.list(prefix or None, chunk_size=1000) for entry in page]
        except (BaseError, OSError) as error:
            raise explain(error, self._bucket, "listed", prefix) from None
        self._seen = True
        return iter(sorted((info for info in found if is_name(info.name)), key=lambda info: info.name))

    def delete(self, name: str) -> None:
        check_name(name)
        try:
            self._quick.delete(name)
        except (BaseError, OSError) as error:
            failure = explain(error, self._bucket, "deleted", name)
            if not isinstance(failure, ObjectMissing):
                raise failure from None

    def flush(self) -> None:
        """Nothing to do: the answer to a put comes when the object is durable."""

    def close(self) -> None:
        pass

    def _read(self, name: str, read: Callable[[], T]) -> T:
        try:
            result = read()
        except (BaseError, OSError) as error:
            if says_past_the_end(error):
                raise _PastTheEnd(f"{name} in {self._url} ends before the bytes asked for.") from None
            failure = explain(error, self._bucket, "read", name)
            if isinstance(failure, ObjectMissing):
                self._check_bucket()
            raise failure from None
        self._seen = True
        return result

    def _check_bucket(self) -> None:
        """Tell a missing object from a missing bucket: a HEAD says only 404 for both."""
        if self._seen:
            return
        try:
            next(iter(self._quick.list(chunk_size=1)), None)
        except (BaseError, OSError) as error:
            if says_no_bucket(error):
                raise explain(error, self._bucket, "read") from None
            return  # no right to list, perhaps; the object is missing all the same
        self._seen = True

    def _has(self, name: str, content: memoryview) -> bool:
        """Whether a put without an answer took effect after all."""
        try:
            return self.head(name).size == len(content) and self.get(name) == content
        except StoreError:
            return False


class _PastTheEnd(StoreError):
    pass


@dataclass(frozen=True)
class Link:
    """A bucket, and two ways to it: `quick` for what is small, `bulk` for what may take long."""

    bucket: Bucket
    quick: Any
    bulk: Any


def connect(url: str, options: Mapping[str, str] | None = None, *, fits: bool = True) -> Link:
    """Nothing is sent yet. Raises StoreError for an option that cannot be right, an address that cannot, and where not `fits`."""
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    if not parts.netloc or "@" in parts.netloc or parts.query or parts.fragment or not fits:
        raise StoreError(
            f"This is not the address of a bucket: {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}",
            hint=f"Write {parts.scheme}://bucket or {parts.scheme}://bucket/prefix. Credentials are not part of "
            "an address; they come from the environment.",
        )
    shown = f"{parts.scheme}://{parts.netloc}" + (f"/{prefix}" if prefix else "")
    given = dict(options or {})
    _check_options(parts.scheme, given, shown)
    endpoint = given.pop("endpoint", "") or next(
        (os.environ[name] for name in _ENDPOINT_VARIABLES[parts.scheme] if os.environ.get(name)), ""
    )
    allow_http = given.pop("allow_http", "false") == "true"
    if endpoint.startswith("http://") and not (allow_http or _is_loopback(endpoint)):
        raise StoreError(
            f"The endpoint {_host(endpoint)} of {shown} is not encrypted (http://).",
            hint="Use https://. If that network is private and trusted, set the store's option allow_http = true.",
        )
    seconds = {key: _number(key, given.pop(key, default), shown) for key, default in _DEFAULTS.items()}
    bucket = Bucket(parts.scheme, parts.netloc, shown, _host(endpoint))
    try:
        quick, bulk = (
            _connect(parts.scheme, parts.netloc, prefix, given, endpoint, seconds, whole, retry)
            for whole, retry in (
                (seconds["timeout"], seconds["retry_timeout"]),
                # A long upload may fail at its end and is still worth another try.
                (seconds["transfer_timeout"], max(seconds["retry_timeout"], seconds["transfer_timeout"] / 3)),
            )
        )
    except (BaseError, OSError, ValueError) as error:
        raise explain(error, bucket, "opened") from None
    return Link(bucket, quick, bulk)


def _connect(
    scheme: str,
    bucket: str,
    prefix: str,
    options: Mapping[str, str],
    endpoint: str,
    seconds: Mapping[str, float],
    whole: float,
    retry: float,
) -> Any:
    """An obstore store whose requests take at most `whole` seconds and are tried again for `retry` seconds."""
    client: Any = {
        "timeout": dt.timedelta(seconds=whole),
        "connect_timeout": dt.timedelta(seconds=seconds["connect_timeout"]),
        "allow_http": endpoint.startswith("http://"),
    }
    retries: Any = {
        "max_retries": int(seconds["retries"]),
        "retry_timeout": dt.timedelta(seconds=retry),
        "backoff": {
            "init_backoff": dt.timedelta(milliseconds=250),
            "max_backoff": dt.timedelta(seconds=5),
            "base": 2,
        },
    }
    config: Any = dict(options)
    if endpoint:
        config["base_url" if scheme == "gs" else "endpoint"] = endpoint
    shared: Any = {"prefix": prefix or None, "client_options": client, "retry_config": retries}
    match scheme:
        case "s3":
            # Whatever the environment says: puts are conditional; and single deletes name their own errors.
            config |= {"conditional_put": "etag", "disable_bulk_delete": "true"}
            return obstore.store.S3Store(bucket, config=config, **shared)
        case "gs":
            return obstore.store.GCSStore(bucket, config=config, **shared)
        case _:
            return obstore.store.AzureStore(bucket, config=config, **shared)


def known_options(scheme: str) -> frozenset[str]:
    """The names of the options that stores of this scheme (s3, gs, az) have."""
    return frozenset(_SERVICE_OPTIONS[scheme] | _COMMON)


def _check_options(scheme: str, options: Mapping[str, str], url: str) -> None:
    known = known_options(scheme)
    if unknown := sorted(set(options) - known):
        raise StoreError(f"{url} has no option {', '.join(unknown)}.", hint=f"Known are: {', '.join(sorted(known))}.")
    if options.get("allow_http", "false") not in {"true", "false"}:
        raise StoreError(f"The option allow_http of {url} is neither true nor false.")


def _number(key: str, value: str | float, url: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e6 or (number == 0 and key != "retries"):
        raise StoreError(f"The option {key} of {url} is not a number of {'tries' if key == 'retries' else 'seconds'}.")
    return number


def _host(endpoint: str) -> str:
    """The endpoint without path, user or query: for messages."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if endpoint else ""


def _is_loopback(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _info(entry: Any) -> ObjectInfo:
    return ObjectInfo(entry["path"], entry["size"], entry["last_modified"].astimezone(UTC))
