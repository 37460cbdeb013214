"""Object stores behind one small contract (base.py)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from keepwell.core.errors import StoreError
from keepwell.stores.base import Lock, ObjectInfo, Store

__all__ = ["Lock", "ObjectInfo", "Store", "open_store"]

_SUPPORTED = "file:///folder, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or sftp://user@host/path"


def open_store(
    url: str, options: Mapping[str, str] | None = None, *, create: bool = False, lock: Lock | None = None
) -> Store:
    """The store at this address. `options` come from the policy; which there are: docs/how-to/stores.md.

    `create` makes the missing folder of a local store or on an SFTP server (a bucket is never made). Nothing is sent
    to a store over a network yet: a wrong address or credential shows at the first call. With `lock` every object
    is locked against deletion when it is written (S3 only, and boto3 must be there). Raises StoreError, at once, for an
    address or an option that cannot be right.
    """
    parts = urlsplit(url)
    if lock is not None:
        if parts.scheme != "s3":
            raise StoreError(f"{_without_secrets(url)} has no object lock.", hint="Lock objects in an s3:// store.")
        from keepwell.stores.locked import LockedStore

        return LockedStore(url, options, lock)
    if parts.scheme == "file":
        path = unquote(parts.path)
        if parts.netloc or not path.startswith("/") or parts.query or parts.fragment:
            raise StoreError(
                f"{url!r} is not the address of a folder.",
                hint="Write file:// and the absolute path: file:///var/backups/leads (three slashes).",
            )
        if options:
            raise StoreError(f"A local store has no options, and {url} has: {', '.join(sorted(options))}.")
        from keepwell.stores.local import LocalStore

        return LocalStore(Path(path), create=create)
    if parts.scheme in {"s3", "gs", "az"}:
        from keepwell.stores.cloud import CloudStore

        return CloudStore(url, options)
    if parts.scheme == "sftp":
        from keepwell.stores.sftp import SftpStore

        return SftpStore(url, options, create=create)
    raise StoreError(f"{_without_secrets(url)!r} is not the address of a store.", hint=f"Write {_SUPPORTED}.")


def _without_secrets(url: str) -> str:
    """The address without what may be a password: user information and everything after `?` or `#`."""
    scheme, separator, rest = url.partition("://")
    rest = rest.split("?")[0].split("#")[0]
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
