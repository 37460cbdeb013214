"""JSON objects that anyone may read and only key holders can make: rendered in one way, authenticated by a MAC."""

from __future__ import annotations

import json
from typing import Any

from keepwell.core.errors import Damaged
from keepwell.keys import crypto
from keepwell.keys.keyring import Keyring

_BLANK = "0" * 64
"""Stands where the MAC will be, while the MAC is computed over the bytes of the object."""


def render(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def sign(keyring: Keyring, name: str, document: dict[str, Any]) -> bytes:
    """The bytes to store under `name`."""
    blank = render(document | {"mac": _BLANK})
    return blank.replace(_field(_BLANK), _field(keyring.mac(name, blank)))


def verify(keyring: Keyring, name: str, raw: bytes) -> dict[str, Any]:
    """The document without its mac. Raises Damaged where it is not exactly what a key holder stored under `name`."""
    try:
        document = json.loads(raw)
        claimed = document.pop("mac")
        # A quote inside a JSON string is escaped, so this can only be the field itself.
        if not isinstance(claimed, str) or len(claimed) != len(_BLANK) or raw.count(_field(claimed)) != 1:
            raise ValueError("no mac")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{name} was altered or cut short ({error})") from None
    if not crypto.same(claimed, keyring.mac(name, raw.replace(_field(claimed), _field(_BLANK)))):
        raise Damaged(f"{name} was altered: its authentication code does not match")
    return dict(document)


def _field(mac: str) -> bytes:
    return f'"mac": "{mac}"'.encode()
