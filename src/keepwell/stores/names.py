"""Which names an object may have: the same in every store, so that a vault can be copied to any other."""

from __future__ import annotations

import re

from keepwell.core.errors import StoreError

_PART = r"[A-Za-z0-9_=+@,-][A-Za-z0-9._=+@,-]{0,199}"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_LONGEST = 800  # S3 and GCS allow 1024 bytes; the prefix in the store's address needs some


def is_name(name: str) -> bool:
    """Whether an object may be called so.

    Parts of letters, digits and `. _ = + @ , -`, separated by `/`. No part begins with a dot: those are what
    file systems and desktops leave behind (`.nfs0001`, `.DS_Store`), and the local store's own `.tmp`.
    """
    return len(name) <= _LONGEST and _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """The name itself. Raises StoreError where no object may be called so."""
    if not is_name(name):
        raise StoreError(
            f"{name!r} cannot be the name of an object in a store.",
            hint="Use letters, digits and . _ = + @ , - in parts separated by single slashes; no part begins with a dot.",
        )
    return name


def check_prefix(prefix: str) -> str:
    """The prefix itself. Raises StoreError where it is neither empty nor a name followed by a slash."""
    if prefix and not (prefix.endswith("/") and is_name(prefix[:-1])):
        raise StoreError(
            f"{prefix!r} cannot be listed in a store.",
            hint="A prefix is empty, or whole name parts with a slash at the end, such as 'packs/'.",
        )
    return prefix
