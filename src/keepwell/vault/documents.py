"""JSON objects that anyone may read and only key holders can make: rendered in one way, authenticated by a MAC."""

from __future__ import annotations

import json
from typing import Any

from keepwell.core.errors import Damaged
from keepwell.keys import crypto
from keepwell.keys.keyring import Keyring


def canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def render(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def sign(keyring: Keyring, name: str, document: dict[str, Any]) -> bytes:
    """The bytes to store under `name`."""
    return render(document | {"mac": keyring.mac(name, canonical(document))})


def verify(keyring: Keyring, name: str, raw: bytes) -> dict[str, Any]:
    """The document without its mac. Raises Damaged where it is not exactly what a key holder stored under `name`."""
    try:
        document = json.loads(raw)
        if not isinstance(document, dict) or render(document) != raw:
            raise ValueError("not as keepwell writes it")
        claimed = str(document.pop("mac"))
    except (ValueError, KeyError) as error:
        raise Damaged(f"{name} was altered or cut short ({error})") from None
    if not crypto.same(claimed, keyring.mac(name, canonical(document))):
        raise Damaged(f"{name} was altered: its authentication code does not match")
    return document
